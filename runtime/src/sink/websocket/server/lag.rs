//! `on_lag`: what becomes of a subscriber that the journal goes on without.
//!
//! Owns the key's two forms and their check. Pure. `subscriber` acts on the policy, `names` on who holds
//! the journal.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::driver::Problem;
use crate::sink::websocket::protocol::is_name;
use crate::units::Span;

/// Most names that hold the journal: each costs the source when it stalls.
const NAMES_MAX: usize = 64;

/// What becomes of a subscriber that the journal goes on without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Policy {
    /// It is disconnected, with how many records it lost.
    #[default]
    Disconnect,
    /// It goes on at the oldest record that is kept, and is told the gap.
    Skip,
}

/// The key as it is written.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum OnLag {
    /// The same for all.
    All(Policy),
    /// Some hold the journal.
    Block(Block),
}

impl Default for OnLag {
    fn default() -> Self {
        Self::All(Policy::Disconnect)
    }
}

/// Subscribers that hold the source back instead of losing records.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Block {
    /// Names (`wirefall.v1`) for which the journal keeps what they have not acknowledged, here or away;
    /// where it is full, the source waits for them.
    block: Vec<String>,
    /// Longest time for which one of them holds the journal without an acknowledgement.
    #[serde(default = "deadline")]
    deadline: Span,
    /// What becomes of them after that, and of everybody else.
    #[serde(default)]
    then: Policy,
}

fn deadline() -> Span {
    Span(Duration::from_secs(30))
}

/// The key as it is checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LagPlan {
    /// What becomes of those that fall out of the journal.
    pub(super) policy: Policy,
    /// Names that hold the journal.
    pub(super) block: Vec<String>,
    /// For so long at most.
    pub(super) deadline: Duration,
}

impl OnLag {
    /// Checks the key.
    pub(super) fn check(self, problems: &mut Vec<Problem>) -> LagPlan {
        let block = match self {
            Self::All(policy) => {
                return LagPlan {
                    policy,
                    ..LagPlan::default()
                };
            }
            Self::Block(block) => block,
        };
        if block.block.is_empty() {
            let help = "write `on_lag: disconnect` or `on_lag: skip` where nobody holds the source";
            problems.push(Problem::error("/on_lag/block", "no name is listed").help(help));
        }
        if block.block.len() > NAMES_MAX {
            let message = format!("more than {NAMES_MAX} names hold the source");
            let help = "list those that must miss nothing; for all others `then` says what becomes of them";
            problems.push(Problem::error("/on_lag/block", message).help(help));
        }
        for (index, name) in block.block.iter().enumerate() {
            let pointer = || format!("/on_lag/block/{index}");
            if !is_name(name) {
                let message = format!("`{name}` is not a name of a subscriber");
                let help = "1 to 64 of the characters A-Z a-z 0-9 . - _";
                problems.push(Problem::error(pointer(), message).help(help));
            } else if block.block[..index].contains(name) {
                let message = format!("`{name}` is listed twice");
                problems.push(Problem::error(pointer(), message).help("keep one of them"));
            }
        }
        if block.deadline.0.is_zero() {
            let help = "a subscriber that may hold nothing back is not listed in `block`";
            let problem = Problem::error("/on_lag/deadline", "must be longer than 0");
            problems.push(problem.help(help));
        }
        LagPlan {
            policy: block.then,
            block: block.block,
            deadline: block.deadline.0,
        }
    }
}
