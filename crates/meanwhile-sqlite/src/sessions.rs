//! Sessions: what is written of them, and what is read.

use meanwhile_core::store::{KeptSession, SESSION_LIFE, SESSIONS_MAX};
use meanwhile_core::{StoreError, Timestamp};
use rusqlite::{Connection, OptionalExtension, Result, params};

use crate::queries::most;
use crate::rows;
use crate::writer::Tx;

/// How many old ones are forgotten with each that is kept.
const FORGOTTEN: usize = 100;

const KEEP: &str = "INSERT INTO session (key, owner, place, kept_at, opening) VALUES (?, ?, ?, ?, ?) \
                    ON CONFLICT (key) DO UPDATE SET kept_at = excluded.kept_at WHERE ended_at IS NULL";

const OLD: &str = "DELETE FROM session WHERE rowid IN \
                   (SELECT rowid FROM session WHERE kept_at <= ? ORDER BY kept_at LIMIT ?)";

const TOO_MANY: &str = "DELETE FROM session WHERE rowid IN \
                        (SELECT rowid FROM session WHERE owner = ? ORDER BY kept_at DESC LIMIT -1 OFFSET ?)";

/// Keeps a session from now on. Nobody waits for that, so nobody is told.
pub(crate) fn keep(tx: &mut Tx<'_>, session: &KeptSession) -> Result<std::result::Result<(), StoreError>> {
    let KeptSession { key, owner, place, opening } = session;
    let now = tx.now.wall;
    tx.sql.prepare_cached(KEEP)?.execute(params![key, owner, place, now.0, opening.get()])?;
    tx.sql.prepare_cached(OLD)?.execute(params![now.before(SESSION_LIFE).0, most(FORGOTTEN)])?;
    tx.sql.prepare_cached(TOO_MANY)?.execute(params![owner, most(SESSIONS_MAX)])?;
    tx.mark_quiet().map(Ok)
}

/// Ends a session, if it is kept.
pub(crate) fn end(tx: &mut Tx<'_>, key: &str) -> Result<std::result::Result<(), StoreError>> {
    let text = "UPDATE session SET ended_at = ?, opening = '' WHERE key = ? AND ended_at IS NULL";
    if tx.sql.prepare_cached(text)?.execute(params![tx.now.wall.0, key])? > 0 {
        tx.mark_end()?;
    }
    Ok(Ok(()))
}

/// A session that is kept, and has not ended.
pub(crate) fn find(sql: &Connection, key: &str, now: Timestamp) -> Result<Option<KeptSession>> {
    let text = "SELECT owner, place, opening FROM session WHERE key = ? AND kept_at > ? AND ended_at IS NULL";
    let read = |row: &rusqlite::Row<'_>| {
        let (owner, place) = (row.get(0)?, row.get(1)?);
        let kept = |opening| KeptSession { key: key.to_owned(), owner, place, opening };
        Ok(rows::json(row, 2)?.map(kept))
    };
    let found = sql.prepare_cached(text)?.query_row(params![key, now.before(SESSION_LIFE).0], read);
    Ok(found.optional()?.flatten())
}

/// Which of these have been ended.
pub(crate) fn ended(sql: &Connection, keys: &[String]) -> Result<Vec<String>> {
    let mut has_ended = sql.prepare_cached("SELECT 1 FROM session WHERE key = ? AND ended_at IS NOT NULL")?;
    let mut ended = Vec::new();
    for key in keys {
        if has_ended.exists([key])? {
            ended.push(key.clone());
        }
    }
    Ok(ended)
}

/// The mark of the last end of a session.
pub(crate) fn last_end(sql: &Connection) -> Result<Option<String>> {
    let mut last = sql.prepare_cached("SELECT value FROM meta WHERE name = 'ended'")?;
    last.query_row([], |row| row.get(0)).optional()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::plan_of;

    #[test]
    fn what_is_forgotten_is_found_by_its_index() {
        let old = plan_of(OLD, vec![1.into(), 1.into()]);
        assert!(old.contains("SEARCH session USING COVERING INDEX session_kept (kept_at<?)"), "{old}");
        let many = plan_of(TOO_MANY, vec!["ann".to_owned().into(), 1.into()]);
        assert!(many.contains("SEARCH session USING COVERING INDEX session_owner (owner=?)"), "{many}");
        for plan in [old, many] {
            assert!(!plan.contains("SCAN session") && !plan.contains("TEMP B-TREE"), "{plan}");
        }
    }
}
