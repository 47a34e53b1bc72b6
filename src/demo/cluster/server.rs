//! The server's process: a child of ours that never outlives us.
//!
//! A process that is killed with SIGKILL cannot clean up, so the kernel does it: PR_SET_PDEATHSIG
//! makes it send SIGQUIT to the server when its parent dies. "Parent" means the *thread* that
//! spawned it, and threads of a runtime's pool come and go; so each server is spawned by a thread
//! of its own, which then does nothing but wait for it. That thread ends before the server only
//! when the whole process does.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};

/// The postmaster kills children that do not obey after 5 seconds.
const QUIT_LIMIT: Duration = Duration::from_secs(10);
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Nothing is ever sent; the channel closes when the server has exited.
enum Never {}

/// A running postmaster; dropping it stops it at once.
pub(super) struct Server {
    pid: i32,
    exited: Receiver<Never>,
}

impl Server {
    /// Runs `command` in a process group of its own: a Ctrl-C on the terminal is for the tool,
    /// which stops the server when it no longer needs it.
    pub(super) fn spawn(mut command: Command) -> io::Result<Server> {
        command.process_group(0);
        die_with_parent(&mut command);
        let (spawned, started) = bounded(1);
        let (alive, exited) = bounded(0);
        thread::Builder::new()
            .name("postgres-keeper".into())
            .spawn(move || keep(command, spawned, alive))?;
        let pid = started.recv().map_err(io::Error::other)??;
        Ok(Server { pid, exited })
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    pub(super) fn has_exited(&self) -> bool {
        matches!(self.exited.try_recv(), Err(TryRecvError::Disconnected))
    }

    pub(super) fn signal(&self, signal: i32) {
        // A process id may be given to another process once the server was waited for.
        if !self.has_exited() {
            // SAFETY: kill takes plain numbers.
            unsafe { libc::kill(self.pid, signal) };
        }
    }

    fn exits_within(&self, limit: Duration) -> bool {
        matches!(self.exited.recv_timeout(limit), Err(RecvTimeoutError::Disconnected))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal(libc::SIGQUIT);
        // Somebody may have stopped it (SIGSTOP); it would not notice anything else.
        self.signal(libc::SIGCONT);
        if !self.exits_within(QUIT_LIMIT) {
            self.signal(libc::SIGKILL);
            self.exits_within(KILL_LIMIT);
        }
    }
}

/// Spawns the server and stays until it has exited. `_alive` closes its channel at the end.
fn keep(mut command: Command, spawned: Sender<io::Result<i32>>, _alive: Sender<Never>) {
    match command.spawn() {
        Ok(mut child) => {
            spawned.send(pid_of(&child)).ok();
            child.wait().ok();
        }
        Err(e) => {
            spawned.send(Err(e)).ok();
        }
    }
}

fn pid_of(child: &Child) -> io::Result<i32> {
    i32::try_from(child.id()).map_err(io::Error::other)
}

#[cfg(target_os = "linux")]
fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let ask_kernel = move || {
        // SAFETY: both are plain system calls, allowed between fork and exec.
        let (set, now) =
            unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGQUIT), libc::getppid()) };
        if set != 0 {
            return Err(io::Error::last_os_error());
        }
        // The parent may have died before the request was in force.
        if u32::try_from(now) != Ok(parent) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: the closure only makes system calls and allocates nothing. It runs after the change
    // of user, which would clear the request.
    unsafe { command.pre_exec(ask_kernel) };
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_: &mut Command) {}
