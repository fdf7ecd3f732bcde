//! What the plugin boundary costs: nanoseconds of CPU a record, by batch size.
//!
//! `cargo run --release -p wirefall --example boundary -- RECORDS.ndjson [PLUGIN CONFIG [BATCH]]`

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wirefall::plugin::{Cache, ChainPlan, Host, Limits, OnError, ProcessorPlan, resolve};
use wirefall::record::{Batch, Column, Partition, Records};

/// Each measurement covers so many records, over and over the same input.
const RECORDS: usize = 400_000;

const BATCHES: [usize; 4] = [1, 16, 256, 4096];

fn batches(lines: &[&str], size: usize) -> Vec<Batch> {
    let chunks = lines.chunks(size).enumerate();
    let batch = |(number, chunk): (usize, &[&str])| {
        let payloads: Column = chunk.iter().collect();
        Batch {
            number: number as u64,
            partition: Partition::new("bench"),
            start: 0,
            positions: (1..=payloads.len() as u64).collect(),
            records: Records {
                payloads: Arc::new(payloads),
                ..Records::default()
            },
        }
    };
    chunks.map(batch).collect()
}

fn measure(host: &Host, plugin: &Path, config: &str, lines: &[&str], sizes: &[usize]) {
    let processor = ProcessorPlan {
        artifact: resolve(plugin, &mut |line| eprintln!("{line}")).expect("the plugin builds"),
        config: serde_json::from_str(config).expect("config is JSON"),
        on_error: OnError::Failover,
        limits: Limits::default(),
        tolerance: None,
    };
    let loading = Instant::now();
    let plan = ChainPlan::load(host, &[processor]).expect("the plugin loads");
    let mut chain = plan.start().expect("the plugin starts");
    println!(
        "{} {config}: load {:?}",
        plugin.display(),
        loading.elapsed()
    );
    for &size in sizes {
        run_over(&batches(lines, size), |batch| {
            chain.transform(batch).outputs.len()
        });
    }
}

/// What this thread has used: other work on the machine does not count.
fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec that the call writes.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What of a flight the formatter reads.
#[derive(serde::Deserialize)]
struct Flight<'a> {
    dep_delay: Option<f64>,
    carrier: &'a str,
    flight: u32,
    origin: &'a str,
    dest: &'a str,
}

/// The notice.
#[derive(serde::Serialize)]
struct Delay<'a> {
    flight: String,
    from: &'a str,
    to: &'a str,
    delay: i64,
}

/// The work of `flight-delays` without a boundary, every record parsed.
fn format_natively(batch: &Batch) -> Column {
    let mut outputs = Column::default();
    for payload in batch.records.payloads.iter() {
        let flight: Flight = serde_json::from_slice(payload).expect("a flight");
        if let Some(delay) = flight.dep_delay.filter(|delay| *delay > 15.0) {
            let notice = Delay {
                flight: format!("{}{}", flight.carrier, flight.flight),
                from: flight.origin,
                to: flight.dest,
                delay: delay as i64,
            };
            serde_json::to_writer(&mut outputs.bytes, &notice).expect("it is JSON");
            outputs.close();
        }
    }
    outputs
}

/// The batch copied, which is what `nothing` does beyond the boundary.
fn copy(batch: &Batch) -> Column {
    let mut outputs = Column::default();
    for payload in batch.records.payloads.iter() {
        outputs.push(std::hint::black_box(payload));
    }
    outputs
}

fn measure_natively(name: &str, work: fn(&Batch) -> Column, lines: &[&str]) {
    println!("native {name}");
    for size in BATCHES {
        run_over(&batches(lines, size), |batch| {
            std::hint::black_box(work(batch)).len()
        });
    }
}

/// Runs over the batches again and again, and prints what a record costs.
fn run_over(batches: &[Batch], mut work: impl FnMut(&Batch) -> usize) {
    let (mut records, mut outputs) = (0, 0);
    let started = cpu_time();
    for batch in batches.iter().cycle() {
        outputs += work(batch);
        records += batch.records.len();
        if records >= RECORDS {
            break;
        }
    }
    let ns = (cpu_time() - started).as_nanos() as f64 / records as f64;
    let size = batches[0].records.len();
    println!("  batch {size:>4}: {ns:7.1} ns/record, {outputs} of {records}");
}

fn main() {
    let mut args = std::env::args().skip(1);
    let input = args.next().expect("a file of records");
    let text = std::fs::read_to_string(input).expect("the records");
    let lines: Vec<&str> = text.lines().take(50_000).collect();
    let host = Host::new(Cache::user()).expect("a host");
    match args.next() {
        Some(plugin) => {
            let config = args.next().unwrap_or_else(|| "{}".to_owned());
            let size = args.next().map(|size| size.parse().expect("a batch size"));
            let sizes = size.as_ref().map_or(&BATCHES[..], std::slice::from_ref);
            measure(&host, Path::new(&plugin), &config, &lines, sizes);
        }
        None => {
            measure_natively("copy", copy, &lines);
            measure_natively("format", format_natively, &lines);
            for (name, config) in [
                ("hostile", r#"{"does":"nothing"}"#),
                ("flight-delays", r#"{"min_delay":15}"#),
            ] {
                let plugin = PathBuf::from("plugins").join(name);
                measure(&host, &plugin, config, &lines, &BATCHES);
            }
        }
    }
}
