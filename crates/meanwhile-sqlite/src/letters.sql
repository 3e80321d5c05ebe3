-- Layout 2 of the job store: what clients tell a process that another one waits for.

-- Each stays here for a moment: the process that it is for takes it, or else the one that left it. With each of them, as with each
-- end of a session, there is another mark `ended` in meta.
CREATE TABLE letter (
    id                  INTEGER PRIMARY KEY AUTOINCREMENT, -- in the order of writing, and never given twice
    session             TEXT NOT NULL,        -- whose client sent it: session.key
    left_at             INTEGER NOT NULL,     -- when it was written; it is forgotten a minute later
    message             TEXT NOT NULL         -- the message, word for word
) STRICT;

CREATE INDEX letter_session ON letter (session, id);
CREATE INDEX letter_left ON letter (left_at);
