//! Wirefall carries records from a source, through formatters that its users compile to
//! WebAssembly, to WebSocket peers, and loses none of them.
//!
//! # Layout
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`record`] | batches in flat columns, the one shape in which records travel |
//! | [`config`] | pipeline YAML: as written, checked, planned; no I/O |
//! | [`source`] | where batches come from; a file a driver |
//! | [`plugin`] | WebAssembly formatters; the only place that knows wasmtime |
//! | [`journal`] | formatted frames in order, read by cursors |
//! | [`sink`] | where frames go; a folder or file a driver |
//! | [`failover`] | where records go that could not be formatted or delivered |
//! | [`pipeline`] | the one loop that joins them and alone acknowledges and commits |
//! | [`ack`], [`checkpoint`] | what was confirmed, and how far the source may commit |
//! | [`credentials`] | who may subscribe, feed and operate: GUIDs, digests of secrets, their file |
//! | [`driver`] | what every driver table shares: a driver, its config's problems, facts for its check |
//! | [`port`] | ports that others reach: who is let in, by which name, under which TLS |
//! | [`units`], [`files`], [`metrics`] | sizes and times as people write them; folders that are synced; counters |
//! | [`cli`] | the command line; a file a verb |
//!
//! Data flows one way: source → plugin → journal → sink; confirmations flow back only through
//! [`pipeline`]. ARCHITECTURE.md at the root tells the whole.

pub mod ack;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod credentials;
pub mod driver;
pub mod failover;
pub mod files;
pub mod journal;
pub mod metrics;
pub mod pipeline;
pub mod plugin;
pub mod port;
pub mod record;
pub mod sink;
pub mod source;
pub mod units;
