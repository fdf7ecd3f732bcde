//! The clients that are shipped beside the runtime pass their own tests.

use wirefall_tests::Process;
use wirefall_tests::peers::node;
use wirefall_tests::workspace::root;

#[test]
fn the_javascript_client_passes_its_own_tests() {
    let Some(mut node) = node("the_javascript_client_passes_its_own_tests") else {
        return;
    };
    let folder = root().join("clients/js/test");
    let files = std::fs::read_dir(folder).expect("its tests");
    let files = files.map(|file| file.expect("an entry").path());
    let files: Vec<_> = files
        .filter(|file| file.to_string_lossy().ends_with(".test.js"))
        .collect();
    assert!(!files.is_empty());
    let ended = Process::start(node.args(["--test", "--test-reporter=tap"]).args(files))
        .wait()
        .expect(0);
    // A test that was skipped has shown nothing.
    assert!(ended.stdout.contains("\n# skipped 0\n"), "{}", ended.stdout);
}
