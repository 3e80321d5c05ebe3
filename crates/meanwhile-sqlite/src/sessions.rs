//! Sessions and their letters: what is written of them, and what is read.

use meanwhile_core::store::{KeptSession, LETTER_LIFE, LETTERS_MAX, Letter, SESSION_LIFE, SESSIONS_MAX};
use meanwhile_core::{Json, StoreError, Timestamp};
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
        tx.sql.prepare_cached("DELETE FROM letter WHERE session = ?")?.execute([key])?;
        tx.mark_session()?;
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

const OLD_LETTERS: &str = "DELETE FROM letter WHERE left_at <= ?";

const TOO_MANY_LETTERS: &str = "DELETE FROM letter WHERE id IN \
                                (SELECT id FROM letter WHERE session = ? ORDER BY id DESC LIMIT -1 OFFSET ?)";

const LETTERS: &str = "SELECT id, message FROM letter WHERE session = ? AND id > ? ORDER BY id";

/// Leaves a letter, and forgets old ones.
pub(crate) fn leave(
    tx: &mut Tx<'_>,
    session: &str,
    message: &Json,
) -> Result<std::result::Result<u64, StoreError>> {
    forget_old(tx)?;
    let now = tx.now.wall;
    let text = "INSERT INTO letter (session, left_at, message) VALUES (?, ?, ?)";
    let id = tx.sql.prepare_cached(text)?.insert(params![session, now.0, message.get()])?;
    tx.sql.prepare_cached(TOO_MANY_LETTERS)?.execute(params![session, most(LETTERS_MAX)])?;
    tx.mark_session()?;
    Ok(Ok(id.unsigned_abs()))
}

/// Forgets the letters that nobody has taken in time.
pub(crate) fn forget_old(tx: &Tx<'_>) -> Result<()> {
    tx.sql.prepare_cached(OLD_LETTERS)?.execute([tx.now.wall.before(LETTER_LIFE).0]).map(drop)
}

/// Forgets a letter. Nobody waits for that, so nobody is told.
pub(crate) fn forget(tx: &mut Tx<'_>, id: u64) -> Result<std::result::Result<(), StoreError>> {
    tx.sql.prepare_cached("DELETE FROM letter WHERE id = ?")?.execute([id.cast_signed()])?;
    tx.mark_quiet().map(Ok)
}

/// The letters of these sessions behind `after`.
pub(crate) fn letters(sql: &Connection, sessions: &[String], after: u64) -> Result<Vec<Letter>> {
    let mut of_one = sql.prepare_cached(LETTERS)?;
    let mut letters = Vec::new();
    for session in sessions {
        let mut rows = of_one.query(params![session, after.cast_signed()])?;
        while let Some(row) = rows.next()? {
            let (id, message) = (row.get::<_, i64>(0)?.unsigned_abs(), rows::json(row, 1)?);
            letters.extend(message.map(|message| Letter { id, session: session.clone(), message }));
        }
    }
    letters.sort_by_key(|letter| letter.id);
    Ok(letters)
}

/// The mark of the last end of a session, or of the last letter.
pub(crate) fn last_mark(sql: &Connection) -> Result<Option<String>> {
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
        let old_letters = plan_of(OLD_LETTERS, vec![1.into()]);
        assert!(old_letters.contains("USING INDEX letter_left (left_at<?)"), "{old_letters}");
        let values = || vec!["one".to_owned().into(), 1.into()];
        let (too_many, letters) = (plan_of(TOO_MANY_LETTERS, values()), plan_of(LETTERS, values()));
        assert!(too_many.contains("USING COVERING INDEX letter_session (session=?)"), "{too_many}");
        assert!(letters.contains("USING INDEX letter_session (session=? AND id>?)"), "{letters}");
        for plan in [old, many, old_letters, too_many, letters] {
            assert!(
                !plan.contains("SCAN session")
                    && !plan.contains("SCAN letter")
                    && !plan.contains("TEMP B-TREE"),
                "{plan}"
            );
        }
    }
}
