//! The cache of compiled code and descriptions: several processes at once, and torn files.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use wirefall_tests::pipelines::plugin;
use wirefall_tests::process::{Ended, command};
use wirefall_tests::{Folder, Process, write_numbered};

/// Starts a run through a plugin to standard output, in a folder of its own, with this cache.
fn start(folder: &Folder, cache: &Path) -> Process {
    write_numbered(&folder.path("input.ndjson"), 1000);
    let pipeline = folder.write(
        "pipeline.yaml",
        format!(
            "service: {{ pipeline_id: test }}\n\
             source: {{ driver: file, config: {{ path: input.ndjson, resume: false }} }}\n\
             processors:\n- driver: wasm\n  config:\n    plugin: {}\n    config: {{ does: nothing }}\n\
             sink: {{ driver: stdout }}\n",
            plugin("hostile").display()
        ),
    );
    let run = ["run".as_ref(), pipeline.as_os_str()];
    let mut run = command(run.into_iter().chain(["--log".as_ref(), "debug".as_ref()]));
    Process::start(run.env("WIREFALL_CACHE", cache))
}

/// The run gave the right answer.
#[track_caller]
fn is_right(ended: Ended, folder: &Folder) -> Ended {
    let ended = ended.expect(0);
    assert!(ended.stdout == folder.read("input.ndjson"), "every record");
    ended
}

/// Every file of a cache, by its path.
fn files(cache: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for kind in std::fs::read_dir(cache).expect("a cache").flatten() {
        for file in std::fs::read_dir(kind.path()).expect("a folder").flatten() {
            let content = std::fs::read(file.path()).expect("a file");
            files.insert(file.path(), content);
        }
    }
    files
}

#[test]
fn four_processes_at_once_fill_an_empty_cache_and_all_are_right() {
    let cache = Folder::new();
    let runs: Vec<_> = (0..4)
        .map(|_| {
            let folder = Folder::new();
            (start(&folder, &cache.path("")), folder)
        })
        .collect();
    for (run, folder) in runs {
        is_right(run.wait(), &folder);
    }
    // The code and the description, once each, and nothing half written beside them.
    assert_eq!(files(&cache.path("")).len(), 2);
}

/// The second start compiles nothing and asks the plugin nothing: what the first left is only read.
#[test]
fn a_warm_start_compiles_nothing() {
    let cache = Folder::new();
    let path = cache.path("");
    let folder = Folder::new();
    let compiles = |ended: &Ended| ended.stderr.matches("compiling ").count();
    let cold = is_right(start(&folder, &path).wait(), &folder);
    assert_eq!(compiles(&cold), 1, "{}", cold.stderr);
    let written = |cache: &Path| -> Vec<_> {
        let of = |file: &PathBuf| std::fs::metadata(file).expect("a file");
        let at = |file: &PathBuf| (of(file).ino(), of(file).modified().expect("a time"));
        files(cache).keys().map(at).collect()
    };
    let before = written(&path);
    let warm = is_right(start(&folder, &path).wait(), &folder);
    assert_eq!(compiles(&warm), 0, "{}", warm.stderr);
    assert_eq!(written(&path), before);
}

#[test]
fn torn_files_are_told_made_again_and_harm_nobody() {
    let cache = Folder::new();
    let path = cache.path("");
    let folder = Folder::new();
    is_right(start(&folder, &path).wait(), &folder);
    for tear in [
        |whole: &[u8]| whole[..whole.len() / 2].to_vec(),
        |_: &[u8]| Vec::new(),
        |whole: &[u8]| {
            let mut flipped = whole.to_vec();
            flipped[whole.len() / 2] ^= 0x40;
            flipped
        },
        |whole: &[u8]| vec![b'x'; whole.len()],
    ] {
        for (file, whole) in files(&path) {
            std::fs::write(&file, tear(&whole)).expect("written");
        }
        let torn = files(&path);
        let folder = Folder::new();
        let ended = is_right(start(&folder, &path).wait(), &folder);
        let told = ended.stderr.matches("is torn and is made again").count();
        assert_eq!(told, torn.len(), "{}", ended.stderr);
        let again = files(&path);
        assert!(again.keys().eq(torn.keys()), "the same files");
        for (file, content) in &again {
            assert!(torn[file] != *content, "{} is replaced", file.display());
        }
        // Whole again: nobody writes them anew.
        let ended = is_right(start(&folder, &path).wait(), &folder);
        assert!(!ended.stderr.contains("torn"), "{}", ended.stderr);
        assert!(files(&path) == again, "the cache is used as it is");
    }
}
