//! A queue in a file: SQLite with a write-ahead log, which is durable when a commit returns.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use espalier_wire::{Counts, Device, Digest, Dropped, Priority};
use rusqlite::ffi::{self, ErrorCode};
use rusqlite::{Connection, Error, MAIN_DB, Row, Transaction, params};

use super::storage::{Change, Contents, Place, Storage, StorageError, Stored, Weight};

/// Older ones may corrupt a database with a write-ahead log (the WAL-reset bug, fixed in 3.51.3).
const OLDEST_SQLITE: i32 = 3_051_003;
/// `Espq` in the file's header, and the version of the tables.
const APPLICATION: i32 = 0x4573_7071;
const VERSION: i32 = 1;
/// For another process, which may be about to end, to let go of the file.
const BUSY: Duration = Duration::from_millis(300);
/// Bytes that a new file claims beforehand, and its log as well, so that on a full disk it goes on with what fits in there.
const RESERVE: i32 = 256 << 10;

/// Only this process may open it, so no memory is shared with others; every commit is followed by fsync.
const SETTINGS: &str = "
    PRAGMA locking_mode = EXCLUSIVE;
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA wal_autocheckpoint = 256;
    PRAGMA trusted_schema = OFF;
    PRAGMA cell_size_check = ON;
    PRAGMA temp_store = MEMORY;
    PRAGMA cache_size = -1024;";

const TABLES: &str = "
    CREATE TABLE queue (id INTEGER PRIMARY KEY CHECK (id = 1), device TEXT NOT NULL, epoch INTEGER NOT NULL,
                        next INTEGER NOT NULL) STRICT;
    CREATE TABLE insights (sequence INTEGER PRIMARY KEY, priority INTEGER NOT NULL, digest INTEGER NOT NULL,
                           json TEXT NOT NULL) STRICT;
    CREATE INDEX by_priority ON insights (priority, sequence);
    CREATE TABLE dropped (first INTEGER PRIMARY KEY, last INTEGER NOT NULL, low INTEGER NOT NULL,
                          normal INTEGER NOT NULL, high INTEGER NOT NULL) STRICT;
    CREATE TABLE reserve (bytes BLOB NOT NULL) STRICT;";

/// A [`Storage`] in a file.
#[derive(Debug)]
pub struct Sqlite {
    path: PathBuf,
    device: Device,
    /// None where it could not be opened so far.
    connection: Option<Connection>,
    /// What could not be read has been put aside, and nothing took its place so far.
    is_aside: bool,
}

impl Sqlite {
    /// Opens the queue of `device` at `path`, and makes it where there is none. A file that cannot be read is found by
    /// [`Storage::contents`].
    ///
    /// # Errors
    /// A file that cannot be opened, is in use by another process, or is another device's.
    pub fn open(path: &Path, device: &Device) -> Result<Sqlite, StorageError> {
        let linked = rusqlite::version_number();
        if linked < OLDEST_SQLITE {
            return Err(StorageError::Unavailable(format!("SQLite {linked} is older than {OLDEST_SQLITE}")));
        }
        let (path, device) = (path.to_owned(), device.clone());
        let mut sqlite = Sqlite { path, device, connection: None, is_aside: false };
        match sqlite.connection() {
            Ok(_) | Err(StorageError::Corrupt(_)) => Ok(sqlite),
            Err(error) => Err(error),
        }
    }

    fn connect(&self) -> Result<Connection, StorageError> {
        let failed = |e| error_of(&self.path, e);
        let mut connection = Connection::open(&self.path).map_err(failed)?;
        // Where a file may not be written, SQLite opens it for reading.
        if connection.is_readonly(MAIN_DB).map_err(failed)? {
            return Err(StorageError::Unavailable(format!("{}: it may not be written", self.path.display())));
        }
        connection.busy_timeout(BUSY).map_err(failed)?;
        let owner = prepare(&mut connection, &self.device).map_err(failed)?;
        if owner == self.device.as_str() {
            return Ok(connection);
        }
        Err(StorageError::Unavailable(format!(
            "{}: it is the queue of device {owner:?}, not of {:?}; send it with that name, or move it away",
            self.path.display(),
            self.device.as_str()
        )))
    }

    fn connection(&mut self) -> Result<&mut Connection, StorageError> {
        if self.connection.is_none() {
            self.connection = Some(self.connect()?);
            self.is_aside = false;
        }
        Ok(self.connection.as_mut().expect("it was opened"))
    }

    fn put_aside(&self) -> Result<(), StorageError> {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let shown = self.path.display();
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let [from, to] = [suffix.to_owned(), format!(".corrupt-{time}{suffix}")].map(|suffix| {
                let mut path = self.path.clone().into_os_string();
                path.push(suffix);
                path
            });
            match std::fs::rename(&from, &to) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StorageError::Unavailable(format!(
                        "{shown}{suffix} cannot be put aside: {error}"
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn try_commit(&mut self, change: &Change) -> Result<(), StorageError> {
        self.run(|connection| {
            let transaction = connection.transaction()?;
            write(&transaction, change)?;
            transaction.commit()
        })
    }

    /// Runs `query`, and says of its error which file it is about.
    fn run<T>(
        &mut self,
        query: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StorageError> {
        let result = query(self.connection()?);
        result.map_err(|e| error_of(&self.path, e))
    }
}

fn error_of(path: &Path, error: Error) -> StorageError {
    let text = format!("{}: {error}", path.display());
    let Error::SqliteFailure(failure, _) = &error else {
        // A value of a type or range that we never wrote.
        return StorageError::Corrupt(text);
    };
    match (failure.code, failure.extended_code) {
        (_, ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC) => StorageError::Fsync(text),
        // Our statements fit our tables, so SQLITE_ERROR says that these are not ours any more.
        (ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase, _)
        | (_, ffi::SQLITE_ERROR)
        | (_, ffi::SQLITE_IOERR_READ | ffi::SQLITE_IOERR_SHORT_READ | ffi::SQLITE_IOERR_CORRUPTFS)
        | (ErrorCode::ConstraintViolation, _) => StorageError::Corrupt(text),
        _ => StorageError::Unavailable(text),
    }
}

/// Settings, and tables where there are none; gives the device that the queue is of.
fn prepare(connection: &mut Connection, device: &Device) -> rusqlite::Result<String> {
    connection.execute_batch(SETTINGS)?;
    let application: i32 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let version: i32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if (application, version) == (0, 0) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(TABLES)?;
        // SQLite seeds its random numbers from the operating system.
        transaction.execute("INSERT INTO queue VALUES (1, ?1, random(), 1)", [device.as_str()])?;
        transaction.execute("INSERT INTO reserve VALUES (zeroblob(?1))", [RESERVE])?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
        transaction.commit()?;
        // Both files have their size now, and the log is written from its beginning again.
        connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))?;
        connection.execute("DELETE FROM reserve", [])?;
    } else if (application, version) != (APPLICATION, VERSION) {
        return Err(not_ours(format!(
            "it is no queue of version {VERSION} (application {application:#x}, version {version})"
        )));
    }
    // The file may be written (`connect`), so its header was damaged.
    if connection.is_readonly(MAIN_DB)? {
        return Err(not_ours("its header names a format that this SQLite only reads".into()));
    }
    connection.query_row("SELECT device FROM queue", [], |row| row.get(0))
}

fn not_ours(why: String) -> Error {
    Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_NOTADB), Some(why))
}

impl Storage for Sqlite {
    fn contents(&mut self) -> Result<Contents, StorageError> {
        self.run(|connection| {
            check(connection)?;
            let (epoch, next): (i64, u64) =
                connection
                    .query_row("SELECT epoch, next FROM queue", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let weight = weigh(connection, i64::MAX as u64)?;
            let dropped = connection
                .prepare("SELECT first, last, low, normal, high FROM dropped ORDER BY first")?
                .query_map([], dropped)?
                .collect::<Result<_, _>>()?;
            Ok(Contents { epoch: epoch as u64, next, weight, dropped })
        })
    }

    fn commit(&mut self, change: &Change) -> Result<(), StorageError> {
        match self.try_commit(change) {
            Err(StorageError::Unavailable(_)) => {}
            result => return result,
        }
        // What the log holds goes to its places, as far as there is room, so that the log can be written anew.
        let _ = self.run(|connection| connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())));
        self.try_commit(change)
    }

    fn read(&mut self, first: u64, count: usize) -> Result<Vec<Stored>, StorageError> {
        self.run(|connection| {
            connection
                .prepare_cached(
                    "SELECT sequence, priority, digest, json FROM insights WHERE sequence >= ?1 ORDER BY sequence LIMIT ?2",
                )?
                .query_map(params![first, count as u64], |row| {
                    let json: String = row.get(3)?;
                    let (sequence, priority) = (row.get(0)?, priority(row, 1)?);
                    Ok(Stored { sequence, priority, digest: Digest(row.get(2)?), insight: Arc::from(json) })
                })?
                .collect()
        })
    }

    fn least(&mut self, first: u64, count: usize) -> Result<Vec<Place>, StorageError> {
        self.run(|connection| {
            let mut found = Vec::new();
            let mut statement = connection.prepare_cached(
                "SELECT sequence, octet_length(json) FROM insights WHERE priority = ?1 AND sequence >= ?2
                 ORDER BY sequence LIMIT ?3",
            )?;
            for (number, priority) in (0..).zip(Priority::ALL) {
                let wanted = (count - found.len()) as u64;
                let place = |row: &Row<'_>| Ok(Place { priority, sequence: row.get(0)?, bytes: row.get(1)? });
                for place in statement.query_map(params![number, first, wanted], place)? {
                    found.push(place?);
                }
            }
            Ok(found)
        })
    }

    fn weight(&mut self, last: u64) -> Result<Weight, StorageError> {
        self.run(|connection| weigh(connection, last))
    }

    fn renew(&mut self) -> Result<(), StorageError> {
        self.connection = None;
        if !self.is_aside {
            self.put_aside()?;
            self.is_aside = true;
        }
        self.connection().map(drop)
    }
}

/// The whole file, so that damage is found before anything is built on it.
fn check(connection: &Connection) -> rusqlite::Result<()> {
    let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found == "ok" {
        return Ok(());
    }
    Err(Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CORRUPT), Some(found)))
}

fn write(transaction: &Transaction<'_>, change: &Change) -> rusqlite::Result<()> {
    transaction.prepare_cached("DELETE FROM insights WHERE sequence <= ?1")?.execute([change.forget])?;
    transaction.prepare_cached("DELETE FROM dropped WHERE last <= ?1")?.execute([change.forget])?;
    let mut append = transaction.prepare_cached("INSERT INTO insights VALUES (?1, ?2, ?3, ?4)")?;
    for Stored { sequence, priority, digest, insight } in &change.append {
        append.execute(params![sequence, *priority as u8, digest.0, &**insight])?;
    }
    let mut remove = transaction.prepare_cached("DELETE FROM insights WHERE sequence = ?1")?;
    for sequence in &change.remove {
        remove.execute([sequence])?;
    }
    let mut gone = transaction.prepare_cached("DELETE FROM dropped WHERE first = ?1")?;
    let mut put = transaction.prepare_cached("REPLACE INTO dropped VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for (first, run) in &change.dropped {
        match run {
            Some(Dropped { first, last, counts: c }) => {
                put.execute(params![first, last, c.low, c.normal, c.high])?
            }
            None => gone.execute([first])?,
        };
    }
    transaction.prepare_cached("UPDATE queue SET next = ?1")?.execute([change.next])?;
    Ok(())
}

fn weigh(connection: &Connection, last: u64) -> rusqlite::Result<Weight> {
    connection
        .prepare_cached(
            "SELECT count(*), coalesce(sum(octet_length(json)), 0) FROM insights WHERE sequence <= ?1",
        )?
        .query_row([last], |row| Ok(Weight { count: row.get(0)?, bytes: row.get(1)? }))
}

fn dropped(row: &Row<'_>) -> rusqlite::Result<Dropped> {
    let counts = Counts { low: row.get(2)?, normal: row.get(3)?, high: row.get(4)? };
    Ok(Dropped { first: row.get(0)?, last: row.get(1)?, counts })
}

fn priority(row: &Row<'_>, column: usize) -> rusqlite::Result<Priority> {
    let number: usize = row.get(column)?;
    Priority::ALL.get(number).copied().ok_or(Error::IntegralValueOutOfRange(column, number as i64))
}
