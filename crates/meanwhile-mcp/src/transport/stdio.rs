//! This process's own stdin and stdout.
//!
//! What a client gives us is a pipe or a socket, and those are read without a thread between. Anything else (a terminal, a
//! file) goes through tokio's blocking threads: making it non-blocking would change it for the process that shares it.

use std::io;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

/// Our stdin.
///
/// # Errors
/// If the descriptor cannot be duplicated.
pub fn stdin() -> io::Result<Pin<Box<dyn AsyncRead + Send>>> {
    #[cfg(unix)]
    match unix::kind(&io::stdin())? {
        (unix::Kind::Pipe, fd) => return Ok(Box::pin(tokio::net::unix::pipe::Receiver::from_owned_fd(fd)?)),
        (unix::Kind::Socket, fd) => return Ok(Box::pin(unix::socket(fd)?)),
        (unix::Kind::Other, _) => {}
    }
    Ok(Box::pin(tokio::io::stdin()))
}

/// Our stdout.
///
/// # Errors
/// If the descriptor cannot be duplicated.
pub fn stdout() -> io::Result<Pin<Box<dyn AsyncWrite + Send>>> {
    #[cfg(unix)]
    match unix::kind(&io::stdout())? {
        (unix::Kind::Pipe, fd) => return Ok(Box::pin(tokio::net::unix::pipe::Sender::from_owned_fd(fd)?)),
        (unix::Kind::Socket, fd) => return Ok(Box::pin(unix::socket(fd)?)),
        (unix::Kind::Other, _) => {}
    }
    Ok(Box::pin(tokio::io::stdout()))
}

#[cfg(unix)]
mod unix {
    use std::fs::File;
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::fs::FileTypeExt;

    pub(super) enum Kind {
        Pipe,
        Socket,
        Other,
    }

    pub(super) fn kind(stream: &impl AsFd) -> io::Result<(Kind, OwnedFd)> {
        let file = File::from(stream.as_fd().try_clone_to_owned()?);
        let found = file.metadata()?.file_type();
        let kind = match () {
            () if found.is_fifo() => Kind::Pipe,
            () if found.is_socket() => Kind::Socket,
            () => Kind::Other,
        };
        Ok((kind, file.into()))
    }

    pub(super) fn socket(fd: OwnedFd) -> io::Result<tokio::net::UnixStream> {
        let socket = std::os::unix::net::UnixStream::from(fd);
        socket.set_nonblocking(true)?;
        tokio::net::UnixStream::from_std(socket)
    }
}
