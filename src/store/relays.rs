//! Head office's book of its branches: which of their numbers have come, and how much that was.
//!
//! Numbers are kept as ranges, so a branch whose numbers came without gaps is one row for ever.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{Connection, OptionalExtension};

use super::columns::{parsed, text};
use crate::domain::amount::{Amount, Centavos};
use crate::domain::collection::BranchName;
use crate::domain::decision::Sequence;
use crate::domain::delivery::{Epoch, Holdings};
use crate::domain::flags::{Flag, Flags};
use crate::domain::provenance::Provenance;
use crate::domain::time::AcceptedAt;

/// So many gaps of a branch are named; more are only counted.
const GAPS_NAMED_MAX: usize = 100;

/// What a branch relayed.
#[derive(Clone, Debug)]
pub struct Heard {
    branch: BranchName,
    epoch: Option<Epoch>,
    /// Its number there, when it stands in the books here.
    stored: Option<Sequence>,
    /// Amount and flags, when it was new here.
    new: Option<(Amount, Flags)>,
    /// Whether the branch itself sent it just now. When a person accepts here what was refused, it
    /// may have been silent for days.
    is_its_word: bool,
}

impl Heard {
    /// What this provenance of a collection tells that stands in the books; `None` when no branch
    /// relayed it.
    pub fn of(provenance: &Provenance, new: Option<(Amount, Flags)>) -> Option<Heard> {
        let branch = provenance.branch.clone()?;
        let place = provenance.origin.map(|origin| origin.place);
        let (epoch, stored) = place.map(|place| (place.epoch, place.sequence)).unzip();
        let is_its_word = !new.is_some_and(|(_, flags)| flags.has(Flag::Accepted));
        Some(Heard { branch, epoch, stored, new, is_its_word })
    }

    /// The same of what was refused. A branch must not take that to be here, and who looks for
    /// what is missing must find it.
    pub fn of_refused(provenance: &Provenance) -> Option<Heard> {
        Some(Heard { stored: None, ..Heard::of(provenance, None)? })
    }
}

/// What has come of each branch's epoch.
pub type Held = HashMap<(BranchName, Epoch), Holdings>;

/// A branch as head office knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// Its name.
    pub branch: BranchName,
    /// The epoch that it last spoke of, if any.
    pub epoch: Option<Epoch>,
    /// When it was last heard.
    pub heard_at: AcceptedAt,
    /// The highest number of that epoch that came.
    pub last_sequence: Sequence,
    /// Numbers below it that have not come: at most the first hundred gaps, first and last number.
    pub gaps: Vec<(Sequence, Sequence)>,
    /// How many numbers are missing.
    pub missing: i64,
    /// Collections of all its epochs that were new here.
    pub count: i64,
    /// Their sum.
    pub sum: Centavos,
    /// How many of them were a second receipt for a contract.
    pub overpaid: i64,
    /// How many of them another caller had confirmed as well.
    pub possible_doubles: i64,
}

/// Notes what branches relayed in one transaction, and tells what has come from each of them.
pub fn note(connection: &Connection, heard: &[Heard], now: AcceptedAt) -> rusqlite::Result<Held> {
    let mut by_epoch: BTreeMap<(&str, Option<Epoch>), Vec<&Heard>> = BTreeMap::new();
    for one in heard {
        by_epoch.entry((one.branch.as_str(), one.epoch)).or_default().push(one);
    }
    let mut held = Held::new();
    for ((branch, epoch), heard) in by_epoch {
        let word = epoch.map(|epoch| epoch.to_string()).unwrap_or_default();
        count(connection, branch, &word, &heard, now)?;
        let Some(epoch) = epoch else { continue };
        let mut numbers: Vec<Sequence> = heard.iter().filter_map(|one| one.stored).collect();
        numbers.sort_unstable();
        for run in numbers.chunk_by(|a, b| *b <= a + 1) {
            insert(connection, branch, &word, (run[0], run[run.len() - 1]))?;
        }
        held.insert((heard[0].branch.clone(), epoch), holdings(connection, branch, &word)?);
    }
    Ok(held)
}

fn count(
    connection: &Connection,
    branch: &str,
    epoch: &str,
    heard: &[&Heard],
    now: AcceptedAt,
) -> rusqlite::Result<()> {
    let new = || heard.iter().filter_map(|one| one.new);
    let flagged = |flag| new().filter(|(_, flags)| flags.has(flag)).count();
    connection
        .prepare_cached(
            "INSERT INTO relay (branch, epoch, heard_at, count, centavos, overpaid,
                                possible_doubles)
             VALUES (?1, ?2,
                     iif(?8, ?3, coalesce((SELECT max(heard_at) FROM relay WHERE branch = ?1), ?3)),
                     ?4, ?5, ?6, ?7)
             ON CONFLICT DO UPDATE SET
                 heard_at = excluded.heard_at,
                 count = count + excluded.count,
                 centavos = centavos + excluded.centavos,
                 overpaid = overpaid + excluded.overpaid,
                 possible_doubles = possible_doubles + excluded.possible_doubles",
        )?
        .execute((
            branch,
            epoch,
            now.unix_ms(),
            new().count(),
            new().map(|(amount, _)| amount.centavos()).sum::<i64>(),
            flagged(Flag::Overpaid),
            flagged(Flag::PossibleDouble),
            heard.iter().any(|one| one.is_its_word),
        ))
        .map(drop)
}

/// Adds a range, and makes one of all that it overlaps or touches.
fn insert(
    connection: &Connection,
    branch: &str,
    epoch: &str,
    (mut first, mut last): (Sequence, Sequence),
) -> rusqlite::Result<()> {
    let before: Option<(Sequence, Sequence)> = connection
        .prepare_cached(
            "SELECT first, last FROM relayed WHERE branch = ?1 AND epoch = ?2 AND first < ?3
             ORDER BY first DESC LIMIT 1",
        )?
        .query_row((branch, epoch, first), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    if let Some((start, end)) = before.filter(|(_, end)| *end >= first - 1) {
        if end >= last {
            return Ok(());
        }
        first = start;
    }
    let swallowed: Option<Sequence> = connection
        .prepare_cached(
            "SELECT max(last) FROM relayed
             WHERE branch = ?1 AND epoch = ?2 AND first BETWEEN ?3 AND ?4 + 1",
        )?
        .query_row((branch, epoch, first, last), |row| row.get(0))?;
    last = last.max(swallowed.unwrap_or(last));
    connection
        .prepare_cached(
            "DELETE FROM relayed
             WHERE branch = ?1 AND epoch = ?2 AND first > ?3 AND first <= ?4 + 1",
        )?
        .execute((branch, epoch, first, last))?;
    connection
        .prepare_cached(
            "INSERT INTO relayed (branch, epoch, first, last) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET last = excluded.last",
        )?
        .execute((branch, epoch, first, last))
        .map(drop)
}

fn holdings(connection: &Connection, branch: &str, epoch: &str) -> rusqlite::Result<Holdings> {
    connection
        .prepare_cached(
            "SELECT coalesce(max(last) FILTER (WHERE first = 1), 0),
                    coalesce(sum(last - first + 1), 0)
             FROM relayed WHERE branch = ?1 AND epoch = ?2",
        )?
        .query_row((branch, epoch), |row| Ok(Holdings { up_to: row.get(0)?, count: row.get(1)? }))
}

/// All branches that ever relayed to here, by name.
pub fn branches(connection: &Connection) -> rusqlite::Result<Vec<Branch>> {
    let mut statement = connection.prepare_cached(
        "SELECT branch,
                (SELECT epoch FROM relay AS one WHERE one.branch = relay.branch
                 ORDER BY epoch = '', heard_at DESC LIMIT 1),
                max(heard_at), sum(count), sum(centavos), sum(overpaid), sum(possible_doubles)
         FROM relay GROUP BY branch ORDER BY branch",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(Branch {
            branch: text(row, 0, BranchName::parse)?,
            // What bears no number, as a visit of `tilld doctor`, tells of no epoch.
            epoch: text(row, 1, |word| match word {
                "" => Ok(None),
                word => Epoch::parse(word).map(Some),
            })?,
            heard_at: parsed(row, 2, AcceptedAt::from_unix_ms)?,
            last_sequence: 0,
            gaps: Vec::new(),
            missing: 0,
            count: row.get(3)?,
            sum: Centavos(row.get(4)?),
            overpaid: row.get(5)?,
            possible_doubles: row.get(6)?,
        })
    })?;
    let mut branches = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    for branch in &mut branches {
        find_gaps(connection, branch)?;
    }
    Ok(branches)
}

fn find_gaps(connection: &Connection, branch: &mut Branch) -> rusqlite::Result<()> {
    let Some(epoch) = branch.epoch else { return Ok(()) };
    let mut statement = connection.prepare_cached(
        "SELECT first, last FROM relayed WHERE branch = ?1 AND epoch = ?2 ORDER BY first",
    )?;
    let mut ranges = statement.query((branch.branch.as_str(), epoch.to_string()))?;
    while let Some(range) = ranges.next()? {
        let (first, last): (Sequence, Sequence) = (range.get(0)?, range.get(1)?);
        let missing = first - branch.last_sequence - 1;
        if missing > 0 {
            branch.missing += missing;
            if branch.gaps.len() < GAPS_NAMED_MAX {
                branch.gaps.push((branch.last_sequence + 1, first - 1));
            }
        }
        branch.last_sequence = last;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::contract::Mode;
    use crate::store::schema;

    fn heard(sequence: Sequence) -> Heard {
        Heard {
            branch: BranchName::parse("MNL-042").unwrap(),
            epoch: Some(Epoch::new([1, 2, 3, 4])),
            stored: Some(sequence),
            new: None,
            is_its_word: true,
        }
    }

    #[test]
    fn numbers_in_any_order_become_one_range_and_their_gaps_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tilld.db");
        let connection = schema::open_for_writing(&path, Mode::Live, &mut |_| Ok(())).unwrap();
        let now = AcceptedAt::from_unix_ms(0).unwrap();
        let take = |numbers: &[Sequence]| {
            let heard: Vec<Heard> = numbers.iter().copied().map(heard).collect();
            let held = note(&connection, &heard, now).unwrap();
            let branch = branches(&connection).unwrap().remove(0);
            let Holdings { up_to, count } = *held.values().next().unwrap();
            assert_eq!(count, branch.last_sequence - branch.missing);
            (up_to, branch.last_sequence, branch.gaps)
        };
        assert_eq!(take(&[3]), (0, 3, vec![(1, 2)]));
        assert_eq!(take(&[1]), (1, 3, vec![(2, 2)]));
        assert_eq!(take(&[7, 9, 6]), (1, 9, vec![(2, 2), (4, 5), (8, 8)]));
        assert_eq!(take(&[2, 3, 3]), (3, 9, vec![(4, 5), (8, 8)]));
        assert_eq!(take(&[8]), (3, 9, vec![(4, 5)]));
        assert_eq!(take(&[4, 5, 10, 12]), (10, 12, vec![(11, 11)]));
        assert_eq!(take(&[1, 11, 12]), (12, 12, vec![]));
    }

    #[test]
    fn gaps_are_told_although_the_last_word_of_a_branch_bore_no_number() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tilld.db");
        let connection = schema::open_for_writing(&path, Mode::Live, &mut |_| Ok(())).unwrap();
        let visit = Heard { epoch: None, stored: None, ..heard(0) };
        for (ms, heard) in [(0, heard(3)), (1, visit)] {
            note(&connection, &[heard], AcceptedAt::from_unix_ms(ms).unwrap()).unwrap();
        }
        let branch = branches(&connection).unwrap().remove(0);
        assert_eq!((branch.missing, branch.heard_at.unix_ms()), (2, 1));
    }
}
