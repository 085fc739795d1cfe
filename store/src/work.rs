//! Work that blocks. A store on several threads has it done on others than those that serve; one that was given a single
//! thread, as a simulation is, does everything on that, in an order that is always the same. May import: nothing of ours.

use std::io;
use tokio::runtime::{Builder, Handle, RuntimeFlavor};

/// Whether there is no thread but the present one.
fn alone() -> bool {
    Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::CurrentThread)
}

/// Does what may block.
///
/// # Errors
/// It panicked, or was cut off by the runtime's end.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    if alone() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

/// How much less of a processor that others want background work gets: a tenth of a share.
const NICE: libc::c_int = 10;
/// What is handed over to background work may wait for it: so many items.
const HANDED_OVER: usize = 8;

/// Has this thread, for good, take what processors others leave. It must not hold locks that they take: it may be kept from
/// giving them back.
fn stand_back() {
    // SAFETY: no memory is touched. On Linux this is about the calling thread alone, and to be nicer is always allowed.
    unsafe { libc::nice(NICE) };
}

/// Does what may block, in the background.
///
/// # Errors
/// It panicked, or there are no more threads.
pub async fn background<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    if alone() {
        return Ok(work());
    }
    let (done, result) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name(name.into()).spawn(move || {
        stand_back();
        // If nobody waits for the result any more, nobody needs it.
        let _ = done.send(work());
    })?;
    result.await.map_err(|_| io::Error::other("it panicked"))
}

/// Has background work take what this thread makes, a few items ahead of it, and returns when it is done.
///
/// # Errors
/// There are no more threads.
///
/// # Panics
/// The work panicked.
pub fn handing_over<T: Send, R: Send>(
    name: &str,
    items: &mut dyn Iterator<Item = T>,
    work: impl FnOnce(&mut dyn Iterator<Item = T>) -> R + Send,
) -> io::Result<R> {
    if alone() {
        return Ok(work(items));
    }
    std::thread::scope(|scope| {
        let (sender, receiver) = std::sync::mpsc::sync_channel(HANDED_OVER);
        let working = std::thread::Builder::new().name(name.into()).spawn_scoped(scope, move || {
            stand_back();
            work(&mut receiver.into_iter())
        })?;
        for item in items {
            // The work has ended with an error.
            if sender.send(item).is_err() {
                break;
            }
        }
        drop(sender);
        Ok(working.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Has a thread beside this one make items, a few ahead of what this thread does with them, and returns what came of the
/// making. Whoever hands an item over hears whether more are wanted.
///
/// # Errors
/// There are no more threads.
///
/// # Panics
/// The making panicked.
pub fn made_beside<T: Send, R: Send>(
    name: &str,
    make: impl FnOnce(&mut dyn FnMut(T) -> bool) -> R + Send,
    take: &mut dyn FnMut(T) -> bool,
) -> io::Result<R> {
    if alone() {
        return Ok(make(take));
    }
    std::thread::scope(|scope| {
        let (sender, receiver) = std::sync::mpsc::sync_channel(HANDED_OVER);
        let making =
            std::thread::Builder::new().name(name.into()).spawn_scoped(scope, move || make(&mut |item| sender.send(item).is_ok()))?;
        for item in receiver {
            if !take(item) {
                break;
            }
        }
        Ok(making.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// A task that may block for as long as it runs.
pub enum Worker {
    Thread(std::thread::JoinHandle<()>),
    Task(tokio::task::JoinHandle<()>),
}

impl Worker {
    /// # Errors
    /// There are no more threads.
    pub fn start(name: &str, work: impl Future<Output = ()> + Send + 'static) -> io::Result<Self> {
        if alone() {
            return Ok(Self::Task(tokio::spawn(work)));
        }
        let runtime = Builder::new_current_thread().enable_time().build()?;
        std::thread::Builder::new().name(name.into()).spawn(move || runtime.block_on(work)).map(Self::Thread)
    }

    /// Returns once it has ended.
    ///
    /// # Errors
    /// It panicked.
    pub async fn ended(self) -> io::Result<()> {
        match self {
            Self::Thread(thread) => blocking(move || thread.join()).await?.map_err(|_| io::Error::other("it panicked")),
            Self::Task(task) => task.await.map_err(io::Error::other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn niceness() -> i32 {
        // SAFETY: no memory is touched; on Linux, 0 is the calling thread alone.
        unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
    }

    #[test]
    fn what_is_handed_over_comes_in_order_to_a_thread_that_stands_back() {
        let own = niceness();
        let taken = handing_over("test", &mut (0..1000), |items| (items.collect::<Vec<_>>(), niceness())).unwrap();
        assert_eq!(taken, ((0..1000).collect(), (own + NICE).min(19)));
        assert_eq!(niceness(), own, "this thread does not stand back");
    }

    #[test]
    fn work_that_ends_early_ends_the_handing_over() {
        let mut made = 0;
        let mut items = std::iter::from_fn(|| {
            made += 1;
            Some(made)
        });
        let sum: i32 = handing_over("test", &mut items, |items| items.take(3).sum()).unwrap();
        assert_eq!(sum, 6);
        assert!(catch_unwind(AssertUnwindSafe(|| handing_over("test", &mut (0..10), |_| panic!("sled does")))).is_err());
    }

    #[test]
    fn what_is_made_beside_comes_in_order_until_it_is_enough() {
        let mut taken = Vec::new();
        let count = |hand: &mut dyn FnMut(i32) -> bool| (0..1000).take_while(|item| hand(*item)).count();
        let made = made_beside("test", count, &mut |item| {
            taken.push(item);
            true
        });
        assert_eq!((made.unwrap(), taken), (1000, (0..1000).collect()));
        // A few more may have been made by the time it is heard that they are not wanted.
        let made = made_beside("test", count, &mut |item| item < 3).unwrap();
        assert!((3..=4 + HANDED_OVER + 1).contains(&made), "{made}");
        let panics = || made_beside("test", |_: &mut dyn FnMut(()) -> bool| panic!("sled does"), &mut |()| true);
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn background_work_stands_back_and_one_that_panics_is_an_error() {
        assert!(background("test", niceness).await.unwrap() > niceness());
        assert!(background("test", || panic!("it does")).await.is_err());
    }

    #[tokio::test]
    async fn alone_everything_is_done_here() {
        let here = std::thread::current().id();
        assert_eq!(background("test", || std::thread::current().id()).await.unwrap(), here);
        assert_eq!(handing_over("test", &mut (0..3), |_| std::thread::current().id()).unwrap(), here);
        assert_eq!(made_beside("test", |_: &mut dyn FnMut(()) -> bool| std::thread::current().id(), &mut |()| true).unwrap(), here);
    }
}
