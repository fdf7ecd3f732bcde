//! Who has a name, and what it holds.

use super::*;
use crate::journal::cursors::CURSORS_MAX;
use crate::journal::memory::{Memory, Retention};
use crate::journal::{Chunk, testing};

fn chunk() -> Chunk {
    testing::chunk(["ten bytes."])
}

fn journal(chunks: u64) -> Memory {
    Memory::new(Retention {
        bytes_max: chunk().bytes() * chunks,
        age_max: None,
        history: true,
    })
}

fn names(journal: &Memory, deadline: Duration) -> Names {
    let lag = LagPlan {
        block: vec!["archive".to_owned()],
        deadline,
        ..LagPlan::default()
    };
    Names::new(&lag, Arc::new(journal.clone()), Arc::default())
}

async fn append(journal: &Memory, count: usize) {
    for _ in 0..count {
        journal.append(chunk(), Vec::new()).await.unwrap();
    }
}

/// As where no credentials are asked for.
fn taken(names: &Names, name: &str) -> (Held, Option<Position>) {
    let taken = names.take(name, None, |_| unreachable!("nobody has one"));
    taken.expect("anybody's")
}

fn tail(journal: &Memory) -> Position {
    journal.marks().borrow().tail
}

#[tokio::test]
async fn a_name_that_is_forgotten_holds_nothing_until_its_next_session() {
    let journal = journal(4);
    append(&journal, 2).await;
    journal.remember("archive", Position(1).into());
    let names = names(&journal, Duration::from_secs(30));
    let (held, _) = taken(&names, "archive");
    assert!(names.forget("archive").is_err(), "a session has it");
    names.leave(&held);
    assert!(names.forget("archive").ok().expect("nobody has it").await);
    assert!(!names.forget("archive").ok().expect("nobody has it").await);
    append(&journal, 6).await;
    assert_eq!(tail(&journal), Position(4));
    assert!(names.told().is_empty());
    let (held, remembered) = taken(&names, "archive");
    assert_eq!(remembered, None);
    names.begin(&held, Position(5));
    assert!(names.told()[0].holds, "again");
}

#[tokio::test]
async fn i4_a_name_holds_from_where_an_earlier_run_left_it_until_the_deadline() {
    let journal = journal(4);
    append(&journal, 2).await;
    journal.remember("archive", Position(1).into());
    let deadline = Duration::from_secs(30);
    let names = names(&journal, deadline);
    append(&journal, 3).await;
    assert_eq!(tail(&journal), Position(1), "one could go, and one is held");
    let now = Instant::now();
    assert!(names.release(now) <= now + deadline);
    assert_eq!(names.metrics.holds_expired.get(), 0);
    names.release(now + deadline);
    assert_eq!(names.metrics.holds_expired.get(), 1);
    append(&journal, 3).await;
    assert_eq!(tail(&journal), Position(4));
    // It holds again from its next ack on.
    let (held, remembered) = taken(&names, "archive");
    assert_eq!(remembered, Some(Position(1)));
    names.acked(&held, Position(6));
    append(&journal, 2).await;
    assert_eq!(tail(&journal), Position(6));
}

#[tokio::test]
async fn a_name_that_holds_the_journal_is_not_forgotten_for_others() {
    let journal = journal(4);
    let names = names(&journal, Duration::from_secs(30));
    let begin = |name: &str| {
        let (held, _) = taken(&names, name);
        names.begin(&held, Position(0));
        names.leave(&held);
    };
    begin("archive");
    for number in 0..=CURSORS_MAX {
        begin(&number.to_string());
    }
    assert!(journal.remembered("archive").is_some());
    assert!(journal.remembered("0").is_none());
}

#[tokio::test]
async fn what_is_held_in_memory_is_lost_at_the_end_and_counted() {
    let journal = journal(4);
    let names = names(&journal, Duration::from_secs(30));
    names.end();
    let (held, _) = taken(&names, "archive");
    names.begin(&held, Position(0));
    append(&journal, 3).await;
    names.acked(&held, Position(1));
    names.leave(&held);
    let (other, _) = taken(&names, "holds nothing");
    names.begin(&other, Position(0));
    names.end();
    assert_eq!(names.metrics.records_lost.get(), 2);
}

#[tokio::test]
async fn who_has_acknowledged_everything_is_never_too_slow() {
    let journal = journal(4);
    let names = names(&journal, Duration::from_secs(30));
    let (held, _) = taken(&names, "archive");
    names.begin(&held, Position(0));
    append(&journal, 2).await;
    names.acked(&held, Position(2));
    names.release(Instant::now() + Duration::from_secs(3600));
    assert_eq!(names.metrics.holds_expired.get(), 0);
}

#[tokio::test]
async fn a_session_that_lost_its_name_moves_no_cursor() {
    let journal = journal(4);
    append(&journal, 3).await;
    let names = names(&journal, Duration::from_secs(30));
    let (first, _) = taken(&names, "other");
    names.begin(&first, Position(0));
    let (second, remembered) = taken(&names, "other");
    assert!(first.taken.is_cancelled() && !second.taken.is_cancelled());
    assert_eq!(remembered, Some(Position(0)));
    names.acked(&first, Position(2));
    names.leave(&first);
    names.acked(&second, Position(1));
    names.acked(&second, Position(0));
    assert_eq!(journal.remembered("other"), Some(Position(1).into()));
}

#[tokio::test]
async fn a_name_belongs_to_the_credential_that_used_it_first() {
    let journal = journal(4);
    append(&journal, 3).await;
    let names = names(&journal, Duration::from_secs(30));
    let [a, b] = ["a", "b"].map(Arc::<str>::from);
    let all = |_: &str| true;
    for name in ["archive", "other"] {
        let (first, _) = names.take(name, Some(&a), all).expect("free");
        names.begin(&first, Position(0));
        let foreign = Foreign {
            owner: Arc::clone(&a),
        };
        assert_eq!(names.take(name, Some(&b), all).unwrap_err(), foreign);
        assert!(!first.taken.is_cancelled(), "it notices nothing");
        names.acked(&first, Position(2));
        names.leave(&first);
        assert_eq!(names.take(name, Some(&b), all).unwrap_err(), foreign);
        let (second, left) = names.take(name, Some(&a), all).expect("its own");
        assert_eq!(left, Some(Position(2)));
        names.leave(&second);
        // Once the first is revoked the name is free, and then the next one's.
        let (third, left) = names.take(name, Some(&b), |_| false).expect("free");
        assert_eq!(left, Some(Position(2)));
        names.leave(&third);
        assert_eq!(names.take(name, Some(&a), all).unwrap_err().owner, b);
    }
}

#[tokio::test]
async fn a_name_of_an_earlier_run_is_still_its_owners() {
    let journal = journal(4);
    append(&journal, 3).await;
    let owner = Some(Arc::<str>::from("a"));
    for name in ["archive", "other"] {
        let owner = owner.clone();
        let bookmark = Bookmark {
            owner,
            ..Position(1).into()
        };
        journal.remember(name, bookmark);
    }
    journal.remember("of nobody", Position(1).into());
    let names = names(&journal, Duration::from_secs(30));
    let b = Arc::<str>::from("b");
    for name in ["archive", "other"] {
        assert!(names.take(name, Some(&b), |_| true).is_err(), "{name}");
        // Where no credentials are asked for any more, names are anybody's.
        let (held, left) = taken(&names, name);
        assert_eq!(left, Some(Position(1)));
        names.acked(&held, Position(2));
        let kept = journal.remembered(name).expect("a cursor");
        assert_eq!((kept.at, kept.owner), (Position(2), owner.clone()));
    }
    names.take("of nobody", Some(&b), |_| true).expect("free");
    let kept = journal.remembered("of nobody").expect("a cursor");
    assert_eq!(kept.owner, Some(b));
}
