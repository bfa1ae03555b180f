//! Checks whether a file is open for writing in any process.

use std::os::fd::{AsRawFd, BorrowedFd};

/// From fcntl(2); libc has no constant for it.
const F_SETSIG: libc::c_int = 10;

/// Whether any process has the regular file `file` open for writing: a read lease can't be taken then (`F_SETLEASE` in
/// fcntl(2)). `file` must be open only for reading. Returns false if the file system has no leases or the file belongs to
/// another user.
#[must_use]
pub fn is_open_for_writing(file: BorrowedFd<'_>) -> bool {
    let fd = file.as_raw_fd();
    // SAFETY: system calls without memory, on a borrowed descriptor. The lease is returned at once; if it is broken in
    // between, the kernel sends SIGURG, which is ignored by default.
    unsafe {
        libc::fcntl(fd, F_SETSIG, libc::SIGURG);
        if libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) == 0 {
            libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK);
            return false;
        }
    }
    std::io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn a_descriptor_for_writing_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let written = File::create(&path).unwrap();
        let (read, other) = (File::open(&path).unwrap(), File::open(&path).unwrap());
        assert!(is_open_for_writing(read.as_fd()));
        drop(written);
        assert!(!is_open_for_writing(read.as_fd()));
        drop(other);
        assert!(!is_open_for_writing(read.as_fd()));
    }
}
