//! What devices said, each insight once, and what they had to drop.

use std::path::Path;

use espalier_wire::{Ack, Batch, Counts, Device, Digest, Dropped, Entry, Epoch, Priority};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

/// Older ones may corrupt a database with a write-ahead log (the WAL-reset bug, fixed in 3.51.3).
const OLDEST_SQLITE: i32 = 3_051_003;

const SETTINGS: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA foreign_keys = ON;
    PRAGMA trusted_schema = OFF;";

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS queues (
        id INTEGER PRIMARY KEY, device TEXT NOT NULL, epoch INTEGER NOT NULL, upto INTEGER NOT NULL,
        UNIQUE (device, epoch)) STRICT;
    CREATE TABLE IF NOT EXISTS insights (
        queue INTEGER NOT NULL REFERENCES queues, sequence INTEGER NOT NULL, priority INTEGER NOT NULL,
        digest INTEGER NOT NULL, json TEXT NOT NULL, PRIMARY KEY (queue, sequence)) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS dropped (
        queue INTEGER NOT NULL REFERENCES queues, first INTEGER NOT NULL, last INTEGER NOT NULL, low INTEGER NOT NULL,
        normal INTEGER NOT NULL, high INTEGER NOT NULL, PRIMARY KEY (queue, first)) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS missing (
        queue INTEGER NOT NULL REFERENCES queues, first INTEGER NOT NULL, last INTEGER NOT NULL,
        PRIMARY KEY (queue, first)) STRICT, WITHOUT ROWID;";

/// Why the database did not take something. The device sends it again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LedgerError(String);

impl From<rusqlite::Error> for LedgerError {
    fn from(error: rusqlite::Error) -> LedgerError {
        LedgerError(error.to_string())
    }
}

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is stored, and for good.
    Stored,
    /// All of it was stored before.
    Repeated,
    /// It contradicts what was stored before.
    Refused(String),
}

/// What is known of one queue: `upto = received + dropped.total() + missing`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Everything up to this sequence number is accounted for.
    pub upto: u64,
    /// Insights that are stored.
    pub received: u64,
    /// Insights that the device had to drop.
    pub dropped: Counts,
    /// Insights that the device no longer had, because they were acknowledged before, and that are not in this database:
    /// another hub has them, or this one was set back to an older copy.
    pub missing: u64,
}

/// The database of what devices said.
#[derive(Debug)]
pub struct Ledger {
    connection: Connection,
}

impl Ledger {
    /// That in the file `path`, which is made where there is none.
    ///
    /// # Errors
    /// A file that cannot be opened, or is no such database.
    pub fn open(path: &Path) -> Result<Ledger, LedgerError> {
        let named = |e: rusqlite::Error| LedgerError(format!("{}: {e}", path.display()));
        Ledger::prepare(Connection::open(path).map_err(named)?).map_err(named)
    }

    /// One that is forgotten when it is dropped, for tests and simulations.
    ///
    /// # Errors
    /// Too little memory.
    pub fn in_memory() -> Result<Ledger, LedgerError> {
        Ok(Ledger::prepare(Connection::open_in_memory()?)?)
    }

    fn prepare(connection: Connection) -> rusqlite::Result<Ledger> {
        assert!(rusqlite::version_number() >= OLDEST_SQLITE, "SQLite is linked in, and is new enough");
        connection.execute_batch(SETTINGS)?;
        connection.execute_batch(TABLES)?;
        Ok(Ledger { connection })
    }

    /// Stores what is new of a batch, in one step; when it returns, that is durable.
    ///
    /// # Errors
    /// A database that cannot be written. Nothing of the batch is stored then.
    pub fn take(&mut self, batch: &Batch) -> Result<(Answer, Ack), LedgerError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let queue = queue(&transaction, &batch.device, batch.epoch)?;
        let ack = |upto, refused| Ack::new(batch.device.clone(), batch.epoch, upto, refused);
        if let Some(sequence) = contradiction(&transaction, &queue, batch)? {
            let reason = format!(
                "message {sequence} was stored with other content before: two devices have one name and one queue file"
            );
            return Ok((Answer::Refused(reason.clone()), ack(0, Some(reason))));
        }
        if batch.last <= queue.upto {
            return Ok((Answer::Repeated, ack(queue.upto, None)));
        }
        store(&transaction, &queue, batch)?;
        transaction.commit()?;
        Ok((Answer::Stored, ack(batch.last, None)))
    }

    /// What is known of a queue.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub fn account(&self, device: &Device, epoch: Epoch) -> Result<Account, LedgerError> {
        let found = "SELECT id, upto FROM queues WHERE device = ?1 AND epoch = ?2";
        let queue = self
            .connection
            .query_row(found, params![device.as_str(), epoch.0 as i64], as_queue)
            .optional()?;
        let Some(Queue { id, upto }) = queue else { return Ok(Account::default()) };
        let received = "SELECT count(*) FROM insights WHERE queue = ?1";
        let dropped = "SELECT coalesce(sum(low), 0), coalesce(sum(normal), 0), coalesce(sum(high), 0) FROM dropped WHERE queue = ?1";
        let missing = "SELECT coalesce(sum(last - first + 1), 0) FROM missing WHERE queue = ?1";
        Ok(Account {
            upto,
            received: self.connection.query_row(received, [id], |row| row.get(0))?,
            dropped: self.connection.query_row(dropped, [id], |row| counts(row, 0))?,
            missing: self.connection.query_row(missing, [id], |row| row.get(0))?,
        })
    }

    /// The insights of a queue that are stored, by priority.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub fn received(&self, device: &Device, epoch: Epoch) -> Result<Counts, LedgerError> {
        let mut statement = self.connection.prepare(
            "SELECT priority, count(*) FROM insights JOIN queues ON queue = id WHERE device = ?1 AND epoch = ?2 GROUP BY priority",
        )?;
        let rows = statement.query_map(params![device.as_str(), epoch.0 as i64], by_priority)?;
        let mut all = Counts::default();
        for row in rows {
            all += row?;
        }
        Ok(all)
    }

    /// Every queue of which something is known.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub fn queues(&self) -> Result<Vec<(Device, Epoch)>, LedgerError> {
        let mut statement = self.connection.prepare("SELECT device, epoch FROM queues ORDER BY id")?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
        rows.map(|row| {
            let (device, epoch) = row?;
            Ok((device.parse().map_err(|e| LedgerError(format!("{e}")))?, Epoch(epoch as u64)))
        })
        .collect()
    }

    /// The insights of a queue as JSON, by their sequence numbers.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub fn insights(&self, device: &Device, epoch: Epoch) -> Result<Vec<(u64, String)>, LedgerError> {
        let mut statement = self.connection.prepare(
            "SELECT sequence, json FROM insights JOIN queues ON queue = id WHERE device = ?1 AND epoch = ?2 ORDER BY sequence",
        )?;
        let rows = statement
            .query_map(params![device.as_str(), epoch.0 as i64], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

struct Queue {
    id: i64,
    upto: u64,
}

fn as_queue(row: &Row<'_>) -> rusqlite::Result<Queue> {
    Ok(Queue { id: row.get(0)?, upto: row.get(1)? })
}

/// The queue's row, which is made where there is none.
fn queue(transaction: &Transaction<'_>, device: &Device, epoch: Epoch) -> rusqlite::Result<Queue> {
    let key = params![device.as_str(), epoch.0 as i64];
    transaction
        .prepare_cached("INSERT OR IGNORE INTO queues (device, epoch, upto) VALUES (?1, ?2, 0)")?
        .execute(key)?;
    transaction
        .prepare_cached("SELECT id, upto FROM queues WHERE device = ?1 AND epoch = ?2")?
        .query_row(key, as_queue)
}

/// The first message that was stored before, with another digest.
fn contradiction(
    transaction: &Transaction<'_>,
    queue: &Queue,
    batch: &Batch,
) -> rusqlite::Result<Option<u64>> {
    let mut stored =
        transaction.prepare_cached("SELECT digest FROM insights WHERE queue = ?1 AND sequence = ?2")?;
    for entry in batch.entries.iter().take_while(|entry| entry.sequence <= queue.upto) {
        let digest = stored.query_row(params![queue.id, entry.sequence], |row| row.get(0)).optional()?;
        if digest.is_some_and(|digest| Digest(digest) != entry.digest) {
            return Ok(Some(entry.sequence));
        }
    }
    Ok(None)
}

/// Stores what a batch says of the numbers behind `queue.upto`.
fn store(transaction: &Transaction<'_>, queue: &Queue, batch: &Batch) -> rusqlite::Result<()> {
    if batch.first > queue.upto + 1 {
        transaction.prepare_cached("INSERT INTO missing VALUES (?1, ?2, ?3)")?.execute(params![
            queue.id,
            queue.upto + 1,
            batch.first - 1
        ])?;
    }
    let mut insert = transaction.prepare_cached("INSERT INTO insights VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for Entry { sequence, priority, digest, insight } in
        batch.entries.iter().filter(|entry| entry.sequence > queue.upto)
    {
        insert.execute(params![queue.id, sequence, *priority as u8, digest.0, insight.get()])?;
    }
    let mut insert = transaction.prepare_cached("INSERT INTO dropped VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    for run in batch.dropped.iter().filter(|run| run.last > queue.upto) {
        let Dropped { first, last, counts: c } = remaining(transaction, queue, run)?;
        insert.execute(params![queue.id, first, last, c.low, c.normal, c.high])?;
    }
    transaction
        .prepare_cached("UPDATE queues SET upto = ?2 WHERE id = ?1")?
        .execute(params![queue.id, batch.last])?;
    Ok(())
}

/// What a stretch says of the numbers behind `queue.upto`: its counts less what is known of the earlier ones. They were
/// received, or dropped in stretches that this one has grown from.
fn remaining(transaction: &Transaction<'_>, queue: &Queue, run: &Dropped) -> rusqlite::Result<Dropped> {
    if run.first > queue.upto {
        return Ok(*run);
    }
    let range = params![queue.id, run.first, queue.upto];
    let dropped =
        "SELECT coalesce(sum(low), 0), coalesce(sum(normal), 0), coalesce(sum(high), 0) FROM dropped
                   WHERE queue = ?1 AND first >= ?2 AND last <= ?3";
    let mut known = transaction.prepare_cached(dropped)?.query_row(range, |row| counts(row, 0))?;
    let received = "SELECT priority, count(*) FROM insights WHERE queue = ?1 AND sequence BETWEEN ?2 AND ?3 GROUP BY priority";
    for row in transaction.prepare_cached(received)?.query_map(range, by_priority)? {
        known += row?;
    }
    let counts = less(run.counts, known, run.last - queue.upto);
    Ok(Dropped { first: queue.upto + 1, last: run.last, counts })
}

/// `all` less `known`, which leaves `total`. Only where a device found an insight's priority damaged do they not agree; the
/// total is right then too.
fn less(mut all: Counts, mut known: Counts, total: u64) -> Counts {
    for priority in Priority::ALL {
        let rest = all.of_mut(priority).saturating_sub(*known.of_mut(priority));
        *all.of_mut(priority) = rest;
    }
    for priority in Priority::ALL {
        let excess = all.total().saturating_sub(total);
        let count = all.of_mut(priority);
        *count -= excess.min(*count);
    }
    all.normal += total - all.total();
    all
}

/// Of rows of a priority and a count.
fn by_priority(row: &Row<'_>) -> rusqlite::Result<Counts> {
    let (priority, count): (usize, u64) = (row.get(0)?, row.get(1)?);
    let mut counts = Counts::default();
    let known =
        Priority::ALL.get(priority).ok_or(rusqlite::Error::IntegralValueOutOfRange(0, priority as i64))?;
    *counts.of_mut(*known) = count;
    Ok(counts)
}

fn counts(row: &Row<'_>, first: usize) -> rusqlite::Result<Counts> {
    Ok(Counts { low: row.get(first)?, normal: row.get(first + 1)?, high: row.get(first + 2)? })
}

#[cfg(test)]
mod tests {
    use espalier_wire::Batch;

    use super::*;

    fn entry(sequence: u64, priority: Priority) -> Entry {
        let text = format!(r#"{{"n":{sequence}}}"#);
        Entry::new(&device(), Epoch(1), sequence, priority, serde_json::from_str(&text).unwrap())
    }

    fn device() -> Device {
        "gate".parse().unwrap()
    }

    /// A queue as text: `n` for an insight of normal priority, `h` of high, and stretches as `[first-last low normal high]`.
    fn batch(range: (u64, u64), entries: &[(u64, Priority)], dropped: &[(u64, u64, u64, u64, u64)]) -> Batch {
        let entries = entries.iter().map(|&(sequence, priority)| entry(sequence, priority)).collect();
        let run = |&(first, last, low, normal, high): &_| Dropped {
            first,
            last,
            counts: Counts { low, normal, high },
        };
        let batch = Batch::new(device(), Epoch(1), range, dropped.iter().map(run).collect(), entries);
        Batch::from_json(batch.to_json().as_bytes()).expect("a whole account")
    }

    fn account(ledger: &Ledger) -> Account {
        let account = ledger.account(&device(), Epoch(1)).unwrap();
        assert_eq!(account.upto, account.received + account.dropped.total() + account.missing, "{account:?}");
        account
    }

    const NONE: Counts = Counts { low: 0, normal: 0, high: 0 };
    use Priority::{High, Low, Normal};

    #[test]
    fn repeats_are_stored_once() {
        let mut ledger = Ledger::in_memory().unwrap();
        let first = batch((1, 3), &[(1, Normal), (3, High)], &[(2, 2, 1, 0, 0)]);
        for expected in [Answer::Stored, Answer::Repeated, Answer::Repeated] {
            let (answer, ack) = ledger.take(&first).unwrap();
            assert_eq!((answer, ack.upto, ack.refused), (expected, 3, None));
        }
        let expected = Account { upto: 3, received: 2, dropped: Counts { low: 1, ..NONE }, missing: 0 };
        assert_eq!(account(&ledger), expected);
        // A longer one that begins with what was there.
        let longer = batch((1, 4), &[(1, Normal), (3, High), (4, Low)], &[(2, 2, 1, 0, 0)]);
        assert_eq!(ledger.take(&longer).unwrap().1.upto, 4);
        assert_eq!(account(&ledger), Account { upto: 4, received: 3, ..expected });
        assert_eq!(ledger.take(&first).unwrap().1.upto, 4, "an old one is answered with all that is stored");
    }

    #[test]
    fn stretches_that_grew_over_what_was_received_are_counted_once() {
        let mut ledger = Ledger::in_memory().unwrap();
        ledger.take(&batch((1, 4), &[(1, Low), (3, Normal), (4, Low)], &[(2, 2, 0, 0, 1)])).unwrap();
        // The acknowledgement was lost; then everything was dropped, two more besides.
        ledger.take(&batch((1, 6), &[], &[(1, 6, 3, 2, 1)])).unwrap();
        let expected =
            Account { upto: 6, received: 3, dropped: Counts { low: 1, normal: 1, high: 1 }, missing: 0 };
        assert_eq!(account(&ledger), expected);
        ledger.take(&batch((1, 8), &[], &[(1, 8, 4, 2, 2)])).unwrap();
        let expected =
            Account { upto: 8, received: 3, dropped: Counts { low: 2, normal: 1, high: 2 }, missing: 0 };
        assert_eq!(account(&ledger), expected);
    }

    #[test]
    fn what_another_hub_has_is_missing() {
        let mut ledger = Ledger::in_memory().unwrap();
        ledger.take(&batch((11, 12), &[(11, High), (12, High)], &[])).unwrap();
        assert_eq!(account(&ledger), Account { upto: 12, received: 2, dropped: NONE, missing: 10 });
    }

    #[test]
    fn two_devices_of_one_name_and_queue_are_found() {
        let mut ledger = Ledger::in_memory().unwrap();
        ledger.take(&batch((1, 2), &[(1, High), (2, High)], &[])).unwrap();
        let (answer, ack) = ledger.take(&batch((2, 3), &[(2, Low), (3, High)], &[])).unwrap();
        assert!(matches!(&answer, Answer::Refused(reason) if reason.contains("message 2")), "{answer:?}");
        assert_eq!((ack.upto, ack.refused.is_some(), account(&ledger).upto), (0, true, 2));
    }

    #[test]
    fn epochs_and_devices_are_apart() {
        let mut ledger = Ledger::in_memory().unwrap();
        ledger.take(&batch((1, 1), &[(1, High)], &[])).unwrap();
        let other = Batch::new(device(), Epoch(u64::MAX), (1, 1), Vec::new(), vec![entry(1, Low)]);
        ledger.take(&other).unwrap();
        assert_eq!(ledger.queues().unwrap(), [(device(), Epoch(1)), (device(), Epoch(u64::MAX))]);
        assert_eq!(ledger.insights(&device(), Epoch(1)).unwrap(), [(1, r#"{"n":1}"#.to_owned())]);
    }

    #[test]
    fn a_priority_that_was_damaged_does_not_harm_the_total() {
        let all = Counts { low: 0, normal: 3, high: 0 };
        assert_eq!(less(all, Counts { low: 2, normal: 0, high: 0 }, 1).total(), 1);
        assert_eq!(less(all, Counts { low: 0, normal: 0, high: 2 }, 1).total(), 1);
        assert_eq!(less(NONE, NONE, 2).total(), 2);
    }
}
