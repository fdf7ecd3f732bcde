//! The benchmark works: one round of it ends, and says something of every row.

use wirefall_tests::Process;
use wirefall_tests::process::cargo;
use wirefall_tests::workspace::root;

#[test]
fn one_round_of_the_benchmark_tells_every_figure() {
    let mut cargo = cargo();
    cargo
        .current_dir(root())
        .args(["xtask", "bench", "--quick"]);
    let ended = Process::start(&mut cargo).wait_for_build().expect(0);
    let rows = |part: &str| {
        ended
            .stdout
            .lines()
            .filter(|line| line.contains(part))
            .count()
    };
    assert!(
        ended.stdout.starts_with("environment: "),
        "{}",
        ended.stdout
    );
    for (part, count) in [
        ("| limit: ", 2),
        ("| pass-through, stdin, ", 2),
        ("| pass-through, file, ", 2),
        ("| filter+format, stdin, ", 6),
        ("| filter+format, file, ", 6),
        (" → pong ", 3),
        (" → workers 2 ", 4),
        ("first record of the flights example", 1),
        ("  batch 4096: ", 4),
    ] {
        assert_eq!(rows(part), count, "{part}: {}", ended.stdout);
    }
}
