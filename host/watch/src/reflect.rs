//! List, then watch, and when the watch breaks go on where it ended: the loop
//! behind every copy of the API server's objects in this process.
//!
//! | what happens | what follows |
//! |---|---|
//! | the watch ends after its time | the next one, at once |
//! | it ends sooner than a second, breaks, is silent | a pause, then the next one from the same version |
//! | 410, as status or in the stream | a pause, then a list; what it lacks is gone |
//! | three answers in a row that make no sense | the same |
//! | somebody asks for a list | the same, at once |
//! | somebody doubts that it lives | the next one, at once, over another connection |
//! | 404 | [`Reflector::run`] returns: discovery must decide |
//! | 403 | a longer pause, of 30 s at most: rights may come later |
//!
//! A pause doubles with each failure in a row and is never shorter than what the
//! server asked for. Nothing here spins: without progress there is a pause.

use std::time::Duration;

use kube::Client;
use tokio::sync::watch;
use windlass_core::backoff::Backoff;
use windlass_core::class::Class;
use windlass_core::object::{ObjectError, version_number};

use crate::anew::Anew;
use crate::doubt::Doubt;
use crate::get::{GetError, HEAD_WITHIN};
use crate::list::{Head, Pages};
use crate::progress::{DENIED, Phase, Progress};
use crate::selection::Selection;
use crate::stream::{Event, Stream};

/// Pauses after whatever may pass by itself. 5 s at most, so that the end of an
/// outage is noticed soon; one request per kind then is cheap.
const PAUSES: Backoff = backoff(250, 5_000);
/// Pauses while a right is missing or a request is refused: somebody must act first.
const PAUSES_DENIED: Backoff = backoff(1_000, 30_000);
/// A watch that ended sooner, and brought nothing new, counts as a failure.
const BRIEF: Duration = Duration::from_secs(1);
/// After so many answers in a row that make no sense at the same version, the
/// version itself is doubted and the kind listed.
const ODD_MAX: u32 = 3;
/// After so many lists in a row that are older than what was seen, the past is
/// believed: etcd was restored from a backup.
const OLDER_MAX: u32 = 3;

/// Until the head of a watch must be there that is asked for because the one before was doubted, so
/// many times in a row: each kept connection may be dead, and one is left behind each time.
const HASTY_HEAD_WITHIN: Duration = Duration::from_secs(2);
/// See [`HASTY_HEAD_WITHIN`].
const HASTY_MAX: u32 = 5;

pub(crate) const fn backoff(first_ms: u64, most_ms: u64) -> Backoff {
    match Backoff::try_new(Duration::from_millis(first_ms), Duration::from_millis(most_ms)) {
        Ok(backoff) => backoff,
        Err(_) => panic!("the first pause is above zero and not above the longest"),
    }
}

/// Who takes what a list and its watch bring.
pub(crate) trait Target: Send {
    /// The newest version that was ever reached; 0 at first.
    fn newest(&self) -> u64;
    /// A list begins. `rewound`: it is older than what was seen, and right.
    fn begin(&mut self, rewound: bool);
    /// An object as it is now; the answer is its version.
    ///
    /// # Errors
    /// The text is no object: it is counted and skipped.
    fn put(&mut self, text: &str) -> Result<Box<str>, ObjectError>;
    /// An object that is gone, as it was last; the answer is the version of its end.
    ///
    /// # Errors
    /// As [`Target::put`].
    fn gone(&mut self, text: &str) -> Result<Box<str>, ObjectError>;
    /// The list is complete: what it did not bring since [`Target::begin`] is gone.
    fn listed(&mut self, version: u64);
    /// Everything up to `version` has been seen.
    fn reached(&mut self, version: u64);
    /// Whether nothing more is to be brought: the loop then waits to be dropped.
    fn is_full(&self) -> bool {
        false
    }
}

/// The loop, for one selection.
pub(crate) struct Reflector<'a, T> {
    client: &'a Client,
    selection: &'a Selection,
    progress: &'a Progress,
    anew: &'a Anew,
    doubts: watch::Receiver<u64>,
    target: &'a mut T,
    /// Where the next watch goes on.
    cursor: String,
    pauses: Pauses,
    odd: u32,
    older: u32,
    /// Attempts that are given up soon: kept connections may be as dead as the one before.
    hasty: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    List,
    Watch,
}

impl<'a, T: Target> Reflector<'a, T> {
    pub(crate) fn new(
        client: &'a Client,
        selection: &'a Selection,
        progress: &'a Progress,
        anew: &'a Anew,
        doubt: &Doubt,
        target: &'a mut T,
    ) -> Self {
        Self {
            client,
            selection,
            progress,
            anew,
            doubts: doubt.listen(),
            target,
            cursor: String::new(),
            pauses: Pauses::default(),
            odd: 0,
            older: 0,
            hasty: 0,
        }
    }

    /// Feeds the target until the API server answers 404.
    ///
    /// # Cancel safety
    /// Dropping it ends the request; the target holds what it has been given.
    pub(crate) async fn run(mut self) -> GetError {
        let mut step = Step::List;
        loop {
            let done = match step {
                Step::List => self.list().await,
                Step::Watch => self.watch().await,
            };
            step = match done {
                Ok(()) if self.anew.is_wanted() => Step::List,
                Ok(()) => Step::Watch,
                Err(error) if error.code() == Some(404) => return error,
                Err(error) => {
                    self.pause(&error).await;
                    self.step_after(step, &error)
                }
            };
        }
    }

    async fn list(&mut self) -> Result<(), GetError> {
        self.progress.phase(Phase::Listing);
        self.anew.begins();
        let mut pages = Pages::new(self.client, self.selection);
        let mut begun = false;
        loop {
            let head = match self.page(&pages, &mut begun).await {
                Err(GetError::TooLong(_)) if pages.shorten() => continue,
                read => read?,
            };
            let Some(token) = head.next else {
                let version = version_number(&head.version);
                self.cursor = head.version;
                self.older = 0;
                self.target.listed(version);
                self.progress.listed();
                return Ok(());
            };
            pages.go_on(token);
            // All watches share one task; a long list lets the others go between.
            tokio::task::yield_now().await;
        }
    }

    /// Takes one page's objects as they arrive.
    async fn page(&mut self, pages: &Pages<'_>, begun: &mut bool) -> Result<Head, GetError> {
        let mut page = pages.open().await?;
        loop {
            let item = page.next().await?;
            if !*begun {
                let rewound = self.check_age(version_number(&page.head()?.version))?;
                self.target.begin(rewound);
                *begun = true;
            }
            let Some(item) = item else {
                return page.head().cloned();
            };
            // JSON is UTF-8: the page has looked.
            let text = std::str::from_utf8(&item).map_err(|_| GetError::Shape("text in UTF-8"))?;
            if let Err(error) = self.target.put(text) {
                self.skipped(&error);
            }
            self.unless_full().await;
        }
    }

    /// Does not return when the target takes nothing more.
    async fn unless_full(&mut self) {
        if self.target.is_full() {
            std::future::pending().await
        }
    }

    /// Whether the list is older than what was seen, and is to be believed.
    fn check_age(&mut self, list: u64) -> Result<bool, GetError> {
        let seen = self.target.newest();
        if list == 0 || list >= seen {
            return Ok(false);
        }
        self.older += 1;
        if self.older < OLDER_MAX {
            return Err(GetError::Older { list, seen });
        }
        tracing::warn!(kind = %self.selection.kind.gvk, list, seen, "the past has changed, everything is read again");
        Ok(true)
    }

    async fn watch(&mut self) -> Result<(), GetError> {
        // What is doubted from here on is this stream.
        self.doubts.mark_unchanged();
        let head = if self.hasty > 0 { HASTY_HEAD_WITHIN } else { HEAD_WITHIN };
        self.hasty = self.hasty.saturating_sub(1);
        let mut stream = tokio::select! {
            stream = Stream::open(self.client, self.selection, &self.cursor, head) => stream?,
            Ok(()) = self.doubts.changed() => {
                self.hasty = HASTY_MAX;
                return Ok(());
            }
        };
        self.hasty = 0;
        self.progress.watching();
        let end = self.follow(&mut stream).await;
        let lasted = stream.lasted();
        if lasted >= BRIEF {
            self.pauses.reset();
        }
        match end {
            // Doubted: that is no sign of life.
            Ok(_) if self.hasty > 0 => Ok(()),
            Ok(advanced) if advanced || lasted >= BRIEF || self.anew.is_wanted() => {
                self.odd = 0;
                self.progress.alive();
                Ok(())
            }
            Ok(_) => Err(GetError::Brief(lasted)),
            Err(error) => Err(error),
        }
    }

    /// Reads a watch to its end, until a list is asked for or until it is doubted; says whether it brought anything new.
    async fn follow(&mut self, stream: &mut Stream) -> Result<bool, GetError> {
        let mut advanced = false;
        loop {
            let line = tokio::select! {
                biased;
                () = self.anew.wanted() => break,
                Ok(()) = self.doubts.changed() => {
                    self.hasty = HASTY_MAX;
                    break;
                }
                line = stream.line() => line?,
            };
            let Some(line) = line else { break };
            match self.take(&line)? {
                Ok(version) => advanced |= self.advance(&version),
                Err(error) => self.skipped(&error),
            }
            self.unless_full().await;
        }
        Ok(advanced)
    }

    /// Takes one line of a watch; the answer is the version that it brings.
    fn take(&mut self, line: &[u8]) -> Result<Result<Box<str>, ObjectError>, GetError> {
        let at_a_glance = match Event::at_a_glance(line) {
            Some(Event::Put(text)) => self.target.put(text).ok(),
            Some(Event::Gone(text)) => self.target.gone(text).ok(),
            Some(Event::Bookmark(_)) | None => None,
        };
        if let Some(version) = at_a_glance {
            self.progress.event(false);
            return Ok(Ok(version));
        }
        let event = Event::parse(line)?;
        self.progress.event(matches!(event, Event::Bookmark(_)));
        Ok(match event {
            Event::Bookmark(version) => Ok(version.as_ref().into()),
            Event::Put(text) => self.target.put(text),
            Event::Gone(text) => self.target.gone(text),
        })
    }

    /// Moves the cursor; never back, whatever a bookmark says.
    fn advance(&mut self, version: &str) -> bool {
        let number = version_number(version);
        if number != 0 && number <= version_number(&self.cursor) {
            return false;
        }
        self.cursor = version.to_owned();
        self.target.reached(number);
        self.pauses.reset();
        self.odd = 0;
        true
    }

    /// What to try after `step` has failed.
    fn step_after(&mut self, step: Step, error: &GetError) -> Step {
        self.odd += u32::from(is_odd(error));
        if error.code() == Some(410) || self.odd >= ODD_MAX {
            self.odd = 0;
            return Step::List;
        }
        if self.anew.is_wanted() { Step::List } else { step }
    }

    async fn pause(&mut self, error: &GetError) {
        let pause = self.pauses.next(error);
        self.progress.failed(error);
        self.progress.phase(Phase::BackingOff);
        let kind = &self.selection.kind.gvk;
        if self.pauses.failures == 1 && !matches!(error, GetError::Brief(_)) {
            tracing::warn!(%kind, error = %error.line(), "watch broke, trying again");
        } else {
            tracing::debug!(%kind, failures = self.pauses.failures, error = %error.line(), "watch failed again");
        }
        if let Some(missing) = error.missing().filter(|_| self.pauses.failures == DENIED) {
            tracing::warn!(%kind, "a right is missing: {}", missing.advice());
        }
        tokio::time::sleep(pause).await;
    }

    fn skipped(&self, error: &ObjectError) {
        tracing::warn!(kind = %self.selection.kind.gvk, %error, "skipped something that is no object");
        self.progress.failed_with(error.to_string());
    }
}

/// Whether the answer makes no sense, so that the version asked for may be at fault.
/// 504 is how the API server answers a version from the future, 400 one that it
/// can not read.
fn is_odd(error: &GetError) -> bool {
    match error {
        GetError::Refused { code, .. } => matches!(code, 400 | 504),
        GetError::TooLong(_) | GetError::Cut | GetError::Json(_) | GetError::Shape(_) => true,
        _ => false,
    }
}

/// Failures in a row, and the pauses that they lead to.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    failures: u32,
    class: Option<Class>,
}

impl Pauses {
    /// The pause after one more failure. A failure of another class begins a new
    /// row: the 403 that a server answers while it starts must not inherit the
    /// length of the outage before it.
    pub(crate) fn next(&mut self, error: &GetError) -> Duration {
        let class = error.class();
        if self.class.replace(class) != Some(class) {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        let backoff = match class {
            Class::Transient | Class::Conflict => PAUSES,
            Class::Permanent | Class::Guest | Class::Fatal => PAUSES_DENIED,
        };
        let pause = backoff.pause(self.failures, rand::random());
        pause.max(error.retry_after().unwrap_or_default())
    }

    /// Something went well.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}
