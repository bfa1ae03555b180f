//! A runtime as cweb's driver uses it: a task waits for bytes, takes them with `recv(2)` into the one buffer, and leaves its answers
//! to the main future, which sends them with `send(2)` after all tasks that were ready. A head's end is found, nothing is checked.

use crate::{ANSWER, heads};
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::task::{Poll, Waker};

const BUFFER_BYTES: usize = 64 * 1024;

/// State of the thread, shared by its tasks.
#[derive(Default)]
pub struct Shared {
    buffer: Vec<u8>,
    /// The answers of this batch, and whose they are: descriptor and bytes.
    answers: Vec<u8>,
    dirty: Vec<(RawFd, std::ops::Range<usize>)>,
    main: Option<Waker>,
}

/// Sends what the tasks have left, at the end of each batch.
pub async fn send(shared: Rc<RefCell<Shared>>) {
    poll_fn(|cx| {
        let mut shared = shared.borrow_mut();
        let Shared { answers, dirty, main, .. } = &mut *shared;
        main.get_or_insert_with(|| cx.waker().clone());
        for (fd, range) in dirty.drain(..) {
            let bytes = &answers[range];
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: pointer and length describe `bytes`, which the kernel only reads. The task of `fd` runs after this, so
            // the connection is open.
            if unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) } < bytes.len() as isize {
                // SAFETY: no memory is involved; for `fd` see above. The task's receive ends.
                unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
            }
        }
        answers.clear();
        Poll::Pending
    })
    .await
}

/// Serves one connection. `readable` waits until there are bytes; it may miss bytes that were there before, so it is not asked
/// after a receive that has filled the buffer.
pub async fn serve<S: AsRawFd>(stream: S, readable: impl AsyncFn(&S) -> io::Result<()>, shared: Rc<RefCell<Shared>>) {
    let (fd, mut pending, mut is_full) = (stream.as_raw_fd(), Vec::new(), false);
    while is_full || readable(&stream).await.is_ok() {
        let mut shared = shared.borrow_mut();
        let Shared { buffer, answers, dirty, main } = &mut *shared;
        buffer.resize(BUFFER_BYTES, 0);
        // SAFETY: pointer and length describe `buffer`.
        let received = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) };
        if received < 0 && io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock {
            is_full = false;
            continue;
        }
        let Ok(received @ 1..) = usize::try_from(received) else { return };
        is_full = received == buffer.len();
        let bytes = &buffer[..received];
        let count = if pending.is_empty() {
            let (count, end) = heads(bytes);
            pending.extend_from_slice(&bytes[end..]);
            count
        } else {
            pending.extend_from_slice(bytes);
            let (count, end) = heads(&pending);
            pending.drain(..end);
            count
        };
        if count > 0 {
            let start = answers.len();
            (0..count).for_each(|_| answers.extend_from_slice(ANSWER));
            dirty.push((fd, start..answers.len()));
            main.iter().for_each(Waker::wake_by_ref);
        }
    }
}
