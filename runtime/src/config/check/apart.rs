//! What components of one pipeline would take from each other: files and ports.

use std::path::Path;

use super::Checker;
use crate::driver::Problem;
use crate::files;
use crate::port::keys::Address;
use crate::source;

impl Checker {
    /// No file is read and written, or written twice.
    pub(super) fn files_apart(
        &mut self,
        source: Option<&dyn source::SourcePlan>,
        sink: Option<&Path>,
        failover: Option<&Path>,
    ) {
        for (pointer, path) in [("/sink/config", sink), ("/failover/config", failover)] {
            if path.is_some_and(|path| source.is_some_and(|source| source.reads(path))) {
                let message = "the source reads the file that is written here";
                let help = "the run would read its own output; give it another `path`";
                self.problem(pointer, Problem::error("/path", message).help(help));
            }
        }
        if let (Some(sink), Some(failover)) = (sink, failover)
            && files::plain(sink) == files::plain(failover)
        {
            let message = "the sink writes to this file as well";
            let help = "give the failover a file of its own";
            self.problem(
                "/failover/config",
                Problem::error("/path", message).help(help),
            );
        }
    }

    /// No two listen on one port.
    pub(super) fn ports_apart(
        &mut self,
        source: Option<Address>,
        sink: Option<Address>,
        metrics: Option<Address>,
    ) {
        let places = [
            ("the source listens", "/source/config", "/listen", source),
            ("the sink listens", "/sink/config", "/listen", sink),
            ("the metrics are asked for", "/service", "/metrics", metrics),
        ];
        for (index, (_, prefix, pointer, at)) in places.iter().enumerate() {
            let meets = |(_, _, _, other): &&(_, _, _, Option<Address>)| {
                at.is_some_and(|at| other.is_some_and(|other| meet(at, other)))
            };
            if let Some((what, ..)) = places[..index].iter().find(meets) {
                let problem = Problem::error(*pointer, format!("{what} on this port as well"));
                self.problem(prefix, problem.help("each needs a port of its own"));
            }
        }
    }
}

/// Whether the system refuses to listen on both at a time.
fn meet(one: Address, other: Address) -> bool {
    let any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && (one.ip() == other.ip() || any)
}
