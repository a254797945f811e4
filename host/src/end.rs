//! How a run ends, as an exit code that scripts and people can tell apart.

use std::process::ExitCode;

/// The end of a run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Asked to, and everything ended in order. Code 0.
    Clean,
    /// A flag, a file or a kubeconfig that cannot work. Code 2.
    Unusable(String),
    /// Something that must go on ended early. Code 70.
    Early(String),
    /// Work did not stop when it had to. Code 71.
    Overdue(String),
    /// There is no election, and another process holds the Lease. Code 72.
    HeldByAnother(String),
}

impl End {
    /// The code of this end.
    pub(crate) fn code(&self) -> u8 {
        match self {
            End::Clean => 0,
            End::Unusable(_) => 2,
            End::Early(_) => 70,
            End::Overdue(_) => 71,
            End::HeldByAnother(_) => 72,
        }
    }

    /// Says why on standard error, and gives the code back.
    pub(crate) fn report(self) -> ExitCode {
        ExitCode::from(self.say())
    }

    /// As [`report`](Self::report), for an end that does not come from `main`.
    pub(crate) fn say(self) -> u8 {
        match &self {
            End::Clean => {}
            End::Unusable(why) | End::Early(why) | End::Overdue(why) | End::HeldByAnother(why) => {
                eprintln!("windlass: {why}");
            }
        }
        self.code()
    }
}
