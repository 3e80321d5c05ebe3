//! The shim and the keeper: how a gateway outlives the client that started it.
//!
//! The process that a client starts forks twice, and what it then does is wait: it is the **shim**. Its grandchild, the
//! **keeper**, has a session of its own and no parent that anyone would hunt, and inherits the very same stdin and stdout, so
//! that no byte is copied twice. Between the two is a leash, a pair of sockets: when the keeper lets go of it the shim exits
//! as it is told; when it breaks because the shim was killed, the keeper knows that its client is gone.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;

use rustix::process::{Pid, WaitOptions, setsid, waitpid};

/// What the shim exits with when the keeper has died without a word.
const KEEPER_DIED: u8 = 1;

/// The keeper's end of the leash.
#[derive(Debug)]
pub(crate) struct Leash {
    shim: UnixStream,
}

/// Whether these arguments, without the program's own, ask for a gateway that is to outlive its client. One in a terminal is
/// not: it could not read what is typed. Arguments are parsed later, in the keeper; a wrong guess about wrong ones does no harm.
pub(crate) fn is_wanted(args: impl Iterator<Item = OsString>) -> bool {
    let ours: Vec<OsString> = args.take_while(|arg| arg != "--").collect();
    let command = ours.iter().find(|arg| !arg.as_encoded_bytes().starts_with(b"-"));
    let refused = std::env::var_os("MEANWHILE_NO_LINGER").is_some_and(|value| {
        !["", "0", "n", "no", "f", "false", "off"].iter().any(|no| value.eq_ignore_ascii_case(no))
    });
    command.is_some_and(|command| command == "wrap")
        && !refused
        && !ours.iter().any(|arg| arg == "--no-linger")
        && !io::stdin().is_terminal()
}

/// Detaches what follows from the process that called: returns in the keeper only. The caller's process becomes the shim, and
/// exits when the keeper lets it. Nothing may have started a thread before.
///
/// # Errors
/// If the system has no room for another process; then nothing has been detached.
pub(crate) fn detach() -> io::Result<Leash> {
    let (shim, keeper) = UnixStream::pair()?;
    if let Some(child) = fork()? {
        drop(keeper);
        be_shim(child, shim);
    }
    drop(shim);
    // A session of its own: no Ctrl-C and no hang-up of the client's terminal reaches the keeper.
    setsid()?;
    if fork()?.is_some() {
        // Only to be gone: the keeper then belongs to nobody whose children a client might end.
        std::process::exit(0);
    }
    Ok(Leash { shim: keeper })
}

/// Waits for the keeper to let go, and exits as it says.
fn be_shim(child: Pid, mut keeper: UnixStream) -> ! {
    let _ = waitpid(Some(child), WaitOptions::empty());
    give_back_pages();
    let mut code = [KEEPER_DIED];
    while let Err(error) = keeper.read(&mut code) {
        if error.kind() != io::ErrorKind::Interrupted {
            break;
        }
    }
    std::process::exit(i32::from(code[0]));
}

/// Gives back what start-up has touched of the program's own text: it is in its files, and what little is needed again comes
/// again. Without it the shim would hold several times of what it needs, for as long as its session lasts.
#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "to give back memory is unsafe where it holds something, and this holds nothing of its own"
)]
fn give_back_pages() {
    use rustix::mm::{Advice, madvise};
    let Ok(smaps) = std::fs::read_to_string("/proc/self/smaps") else { return };
    for (start, bytes) in parts_of_files(&smaps) {
        // SAFETY: the range is one whole mapping of this process, as the system has just said, and no other thread is there to
        // unmap it. It cannot be written, and no page of it differs from its file, so that each one comes again as it was.
        let _ =
            unsafe { madvise(std::ptr::with_exposed_provenance_mut(start), bytes, Advice::LinuxDontNeed) };
    }
}

#[cfg(not(target_os = "linux"))]
fn give_back_pages() {}

/// The mappings that are nothing but a part of a file, by start and size: they cannot be written, and no page is of this process.
#[cfg(target_os = "linux")]
fn parts_of_files(smaps: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        if let Some(own) = line.strip_prefix("Anonymous:") {
            found.extend(current.take().filter(|_| own.trim() == "0 kB"));
        } else if let Some(mapping) = mapping(line) {
            let (start, end, mode, path) = mapping;
            let is_part = !mode.contains('w') && mode.ends_with('p') && path.starts_with('/');
            current = is_part.then_some((start, end - start));
        }
    }
    found
}

/// `start-end mode offset device inode path`: the line that begins a mapping.
#[cfg(target_os = "linux")]
fn mapping(line: &str) -> Option<(usize, usize, &str, &str)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    let mode = words.next()?;
    (start < end).then(|| (start, end, mode, words.nth(3).unwrap_or_default()))
}

/// Forks. The child is `None`.
#[expect(unsafe_code, reason = "to fork is unsafe where there are threads, and here there are none")]
fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: `main` calls this before it starts the runtime or anything else that makes threads, so the child finds no lock
    // held by a thread that it does not have, and may go on as any program does.
    match unsafe { libc::fork() } {
        0 => Ok(None),
        child => Pid::from_raw(child).filter(|_| child > 0).map(Some).ok_or_else(io::Error::last_os_error),
    }
}

impl Leash {
    /// Resolves when the shim is gone, and with it the client.
    pub(crate) async fn broken(&self) {
        let watched = self.shim.try_clone().and_then(|shim| {
            shim.set_nonblocking(true)?;
            tokio::net::UnixStream::from_std(shim)
        });
        match watched {
            Ok(shim) => while shim.readable().await.is_ok() && !is_over(&shim) {},
            Err(error) => {
                tracing::warn!(%error, "the shim cannot be watched; only a closed stdin ends the session");
                std::future::pending().await
            }
        }
    }

    /// Lets the shim exit with `code`, and lets go of the client's pipes: whoever waits for their end need wait no longer.
    pub(crate) fn release(mut self, code: u8) {
        let _ = self.shim.write_all(&[code]);
        if let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") {
            let _ = rustix::stdio::dup2_stdin(&null);
            let _ = rustix::stdio::dup2_stdout(&null);
            let _ = rustix::stdio::dup2_stderr(&null);
        }
    }
}

/// The shim says nothing, so whatever can be read is its end.
fn is_over(shim: &tokio::net::UnixStream) -> bool {
    !matches!(shim.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_a_part_of_a_file_and_nothing_else_is_given_back() {
        let smaps = "\
7f0000000000-7f0000002000 r--p 00000000 fe:00 77 /usr/bin/meanwhile
Rss:                   8 kB
Anonymous:             0 kB
VmFlags: rd mr mw me
7f0000002000-7f0000005000 r-xp 00002000 fe:00 77 /usr/bin/meanwhile
Anonymous:             0 kB
7f0000005000-7f0000006000 r--p 00005000 fe:00 77 /usr/bin/meanwhile
Anonymous:             4 kB
7f0000006000-7f0000007000 rw-p 00006000 fe:00 77 /usr/bin/meanwhile
Anonymous:             0 kB
7f0000007000-7f0000008000 r--s 00000000 fe:00 78 /usr/share/something
Anonymous:             0 kB
7f0000008000-7f0000009000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
";
        assert_eq!(parts_of_files(smaps), [(0x7f00_0000_0000, 0x2000), (0x7f00_0000_2000, 0x3000)]);
    }
}
