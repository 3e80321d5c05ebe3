//! Who hurts: processes are killed, frozen for a while, or find their disk full for a while.

use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::Stage;
use crate::dice::Dice;
use crate::processes::{Process, Role};

#[derive(Debug, Clone, Copy)]
enum Deed {
    Kill(Role),
    Freeze(Role),
    FillDisk,
}

const DEEDS: [(u64, Deed); 6] = [
    (30, Deed::Kill(Role::Keeper)),
    (20, Deed::Kill(Role::Shim)),
    (25, Deed::Kill(Role::Upstream)),
    (9, Deed::Freeze(Role::Keeper)),
    (3, Deed::Freeze(Role::Upstream)),
    (13, Deed::FillDisk),
];

/// The pause between two deeds, in milliseconds.
const PAUSE: (u64, u64) = (10, 350);
/// How long what is hurt stays so, in milliseconds: from less than a lease to several of them.
const HURT: (u64, u64) = (50, 1200);
/// How long after a freeze leases may still be found to have run out in it.
const AFTER_A_FREEZE: Duration = Duration::from_millis(500);
/// A storm that finds too little to kill is over after this for each kill, and has failed.
const PATIENCE: Duration = Duration::from_secs(3);

/// Kills so many processes, then lets all that was hurt recover, and ends the storm.
pub(crate) async fn storm(stage: Stage, mut dice: Dice, kills: usize) {
    let deadline = Instant::now() + PATIENCE * u32::try_from(kills + 5).unwrap_or(u32::MAX);
    let mut recoveries = JoinSet::new();
    let mut killed = 0;
    while killed < kills && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(dice.between(PAUSE.0, PAUSE.1))).await;
        killed += usize::from(hurt(&stage, &mut dice, &mut recoveries));
    }
    if killed < kills {
        stage.ledger().violation(format!("only {killed} of {kills} processes could be killed"));
    }
    stage.end_the_storm();
    recoveries.join_all().await;
}

/// Does something bad. Returns whether a process was killed.
fn hurt(stage: &Stage, dice: &mut Dice, recoveries: &mut JoinSet<()>) -> bool {
    let deed = dice.weighed(&DEEDS);
    let length = Duration::from_millis(dice.between(HURT.0, HURT.1));
    let room = dice.between(0, 256) * 1024 * dice.between(0, 1);
    let role = match deed {
        Deed::Kill(role) | Deed::Freeze(role) => role,
        Deed::FillDisk => Role::Keeper,
    };
    let mut targets = stage.place.processes();
    targets.retain(|process| process.is(role));
    targets.sort_by_key(|process| process.pid.as_raw_nonzero());
    let Some(last) = targets.len().checked_sub(1) else { return false };
    let target = targets.swap_remove(dice.between(0, last as u64) as usize);
    let was_hurt = match deed {
        Deed::Kill(_) => target.kill(),
        Deed::Freeze(_) => target.freeze(),
        Deed::FillDisk => target.limit_files(room),
    };
    if !was_hurt {
        return false;
    }
    let name = match deed {
        Deed::Kill(role) => format!("killed {role:?}"),
        Deed::Freeze(role) => format!("frozen {role:?}"),
        Deed::FillDisk if room == 0 => "disks made read-only".to_owned(),
        Deed::FillDisk => "disks filled".to_owned(),
    };
    stage.ledger().count(name);
    stage.ledger().hurt.insert(target.pid.as_raw_nonzero().get());
    if let Deed::Freeze(_) = deed {
        let now = Timestamp::now();
        stage.ledger().frozen.push(now..now + length + AFTER_A_FREEZE);
    }
    recoveries.spawn(recover(target, deed, length));
    matches!(deed, Deed::Kill(_))
}

async fn recover(target: Process, deed: Deed, after: Duration) {
    if let Deed::Kill(_) = deed {
        return;
    }
    tokio::time::sleep(after).await;
    match deed {
        Deed::FillDisk => target.unlimit_files(),
        _ => target.thaw(),
    }
}
