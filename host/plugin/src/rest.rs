//! What plugins that nobody asks keep of the machine's memory: next to nothing.
//!
//! Compiled code is mapped from its artefact, and the kernel maps sixteen pages around each one that
//! is touched and keeps them mapped. With a hundred plugins that is most of what this process has for
//! itself. So a thread gives the pages of those back that have not been asked for a while. The
//! file stays in the kernel's page cache: the next call costs a few minor faults and no disk.
//!
//! Giving back is only right for pages that nobody has written to, since they come back as the file
//! has them. Of these nobody has: wasmtime refuses images with relocations outside of debug
//! information, and makes the whole mapping read-only before anything runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use rustix::mm::{Advice, madvise};
use wasmtime::component::Component;

/// How often plugins are looked at: one that was not asked between two looks rests. So it keeps its
/// pages for one to two of these after a call. Shorter pauses would slow down plugins that are asked now and then.
const LOOK: Duration = Duration::from_secs(4);
/// Stack of the thread: it calls nothing deep, and all of it counts as data of the process.
const STACK_BYTES: usize = 128 << 10;

/// The compiled code of one component that was mapped from a file.
pub(crate) struct Pages {
    component: Component,
    /// Since the last look.
    touched: AtomicBool,
    /// Whether there is anything to give back.
    resident: AtomicBool,
}

/// Owns the thread. Dropping it ends and joins the thread.
pub(crate) struct Rest {
    /// Whether the thread will look again without being told.
    awake: Arc<AtomicBool>,
    tell: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Pages {
    /// Of a component that came from [`artefact::map`](crate::artefact::map), and from nowhere else:
    /// what is not backed by a file would be lost.
    pub(crate) fn mapped(component: Component) -> Self {
        Self { component, touched: AtomicBool::new(true), resident: AtomicBool::new(false) }
    }

    /// Gives the pages back if nobody has asked since the last look; says whether somebody has.
    fn look(&self) -> bool {
        if self.touched.swap(false, Ordering::Relaxed) {
            self.resident.store(true, Ordering::Relaxed);
            return true;
        }
        if self.resident.swap(false, Ordering::Relaxed) {
            self.give_back();
        }
        false
    }

    #[allow(unsafe_code)]
    fn give_back(&self) {
        let image = self.component.image_range();
        let length = image.end.addr() - image.start.addr();
        // SAFETY: the component lives, so this is its mapping and nothing else: private, of a file that is
        // never written again, never written to itself (see the module). A guest that runs in it
        // right now finds the same bytes there.
        let given = unsafe { madvise(image.start.cast_mut().cast(), length, Advice::LinuxDontNeed) };
        if let Err(error) = given {
            tracing::debug!(%error, "compiled code stays in memory");
        }
    }
}

impl Rest {
    /// Looks at what `all` lists, whenever something of it has been asked. Where no thread can be had nothing is given back.
    pub(crate) fn start(all: impl Fn() -> Vec<Arc<Pages>> + Send + 'static) -> Self {
        let awake = Arc::new(AtomicBool::new(false));
        let (tell, told) = sync_channel(1);
        let still = Arc::clone(&awake);
        let thread = Builder::new().name("rest".into()).stack_size(STACK_BYTES);
        let thread = thread.spawn(move || look_on(&told, &still, all)).ok();
        Self { awake, tell: Some(tell), thread }
    }

    /// To be called when a guest of `pages` is about to run.
    pub(crate) fn touch(&self, pages: &Pages) {
        pages.touched.store(true, Ordering::Relaxed);
        if !self.awake.swap(true, Ordering::AcqRel) {
            // Full: it has been told already.
            let _ = self.tell.as_ref().map(|tell| tell.try_send(()));
        }
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.tell = None;
        if let Some(thread) = self.thread.take() {
            // It panics nowhere; and if it did, there is nothing left to be done about it.
            let _ = thread.join();
        }
    }
}

/// Waits until somebody is asked, then looks until all rest.
fn look_on(told: &Receiver<()>, awake: &AtomicBool, all: impl Fn() -> Vec<Arc<Pages>>) {
    while told.recv().is_ok() {
        loop {
            match told.recv_timeout(LOOK) {
                Err(RecvTimeoutError::Timeout) => {}
                // Told during the last look: not all had rested, and nobody has for so long yet.
                Ok(()) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // Before the look: whoever is asked after it tells this thread again.
            awake.store(false, Ordering::Release);
            let asked = all().iter().filter(|pages| pages.look()).count();
            if asked == 0 {
                break;
            }
            awake.store(true, Ordering::Release);
        }
    }
}
