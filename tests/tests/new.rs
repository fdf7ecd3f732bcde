//! What `wirefall new` makes builds, tests and runs as it is, natively and as a component.

use std::path::Path;
use std::process::Command;

use wirefall_tests::Process;
use wirefall_tests::process::{Ended, cargo, command};
use wirefall_tests::workspace::root;

/// Runs a command in the folder with the crate's own target folder, and without the network: the
/// workspace has everything that a new crate needs.
#[track_caller]
fn run(mut command: Command, folder: &Path) -> Ended {
    command
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", folder.with_file_name("target"))
        .env("CARGO_NET_OFFLINE", "true");
    Process::start(&mut command).wait_for_build().expect(0)
}

#[test]
fn a_new_crate_builds_tests_and_runs_as_it_is() {
    // The same place each time, so that its dependencies are compiled once; inside the repository, so
    // that it takes the SDK from beside it.
    let scratch = root().join("target/new-crate");
    std::fs::create_dir_all(&scratch).expect("a folder");
    let folder = scratch.join("my-formatter");
    let _ = std::fs::remove_dir_all(&folder);
    let wirefall = |words: &[&str]| run(command(words), &folder);

    let mut new = command(["new", "my-formatter"]);
    Process::start(new.current_dir(&scratch)).wait().expect(0);
    // Versions that are here already.
    std::fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).expect("a file");

    let mut native = cargo();
    native.arg("test");
    let tested = run(native, &folder);
    assert!(tested.stdout.contains("2 passed"), "{}", tested.stdout);

    wirefall(&["build"]);
    let tested = wirefall(&["test"]);
    assert!(tested.stdout.contains("example"), "{}", tested.stdout);
    let described = wirefall(&["inspect", "."]);
    assert!(described.stdout.contains("my-formatter"), "its name");
    wirefall(&["check", "pipeline.yaml"]);
    let ended = wirefall(&["run", "pipeline.yaml"]);
    let expected = folder.join("tests/golden/example.expected.ndjson");
    let expected = std::fs::read_to_string(expected).expect("a file");
    assert_eq!(ended.stdout, expected);
    assert_eq!(ended.account("delivered"), expected.lines().count() as u64);
    assert_eq!(ended.account("unconfirmed"), 0);
}
