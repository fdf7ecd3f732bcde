//! Lines that are slow, and what is written to one when.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use wirefall::journal::Position;
use wirefall::sink::websocket::receiver::Faults;

use crate::harness::{Peer, Run};

/// Bytes that the slow line passes on at once.
const SIP_BYTES: usize = 4096;

/// A line to `peer` that carries so many bytes a second there, and holds next to none.
async fn slow_line(peer: String, bytes_per_second: u32) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(SIP_BYTES as u32).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener: TcpListener = socket.listen(8).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (near, _) = listener.accept().await.unwrap();
            let far = TcpStream::connect(&peer).await.unwrap();
            let (mut near_reads, mut near_writes) = near.into_split();
            let (mut far_reads, mut far_writes) = far.into_split();
            tokio::spawn(async move {
                let _ = tokio::io::copy(&mut far_reads, &mut near_writes).await;
            });
            tokio::spawn(async move {
                let mut sip = [0; SIP_BYTES];
                while let Ok(bytes @ 1..) = near_reads.read(&mut sip).await {
                    let takes = Duration::from_secs(1) * bytes as u32 / bytes_per_second;
                    tokio::time::sleep(takes).await;
                    if far_writes.write_all(&sip[..bytes]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// A record that needs several times `confirm_timeout` on its line is good all the same.
#[tokio::test]
async fn a_large_record_on_a_slow_line_is_delivered_and_not_convicted() {
    let peer = Peer::start(false, Faults::default()).await;
    let address = slow_line(peer.address.clone(), 400_000).await;
    let records = vec![
        "small".to_owned(),
        "x".repeat(900_000),
        "the last".to_owned(),
    ];
    let timeouts = json!({
        "url": format!("ws://{address}/in"),
        "confirm_timeout": "500ms",
        "write_timeout": "500ms",
        "ping_interval": "200ms",
    });
    let ended = Run::new(peer.config(timeouts), records.clone())
        .carry()
        .await;
    assert_eq!(ended.poisoned.len(), 0, "good records in the failover");
    let delivered = ended.result.unwrap();
    assert_eq!(delivered.confirmed, Position(3));
    assert_eq!((delivered.reconnects, delivered.resent), (0, 0));
    assert!(peer.lines() == records, "what arrived is not what was sent");
}
