//! Report: which fences stand, said to the host, to its log and to `--require-sandbox`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What keeps the process from files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Files {
    /// Landlock does.
    Landlock {
        /// The version of its interface that is enforced, 1 and up.
        abi: u32,
    },
    /// There is no Landlock, but the filter lets no call through that opens one.
    NoneOpened,
    /// Nothing but the user's own rights, and why.
    Open(String),
}

/// What keeps the process from the rest of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SystemCalls {
    /// A filter does.
    Filtered {
        /// How many calls it lets through, some only with certain arguments.
        allowed: u32,
    },
    /// Nothing, and why.
    All(String),
}

/// One resource limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Its name in `getrlimit(2)`, in lower case and without `RLIMIT_`.
    pub name: String,
    /// Its value, in the resource's own unit: bytes, seconds or pieces.
    pub value: u64,
    /// Why it could not be set.
    pub failed: Option<String>,
}

/// Which fences stand around a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Files.
    pub files: Files,
    /// System calls.
    pub system_calls: SystemCalls,
    /// Resource limits.
    pub limits: Vec<Limit>,
    /// Bits of the capabilities it still holds; 0 is none.
    pub capabilities_left: u64,
    /// Whether no exec can give it more than it has.
    pub no_new_privileges: bool,
    /// Whether other processes of the same user cannot look into it.
    pub hidden: bool,
    /// Whether the kernel ends it when the thread that started it ends. A convenience: it also ends with
    /// its socket.
    pub dies_with_host: bool,
    /// Whether the kernel prefers it when memory is short. A convenience.
    pub killed_first: bool,
    /// Whether everything its parent left open is closed.
    pub descriptors_closed: bool,
}

impl Report {
    /// Whether nothing that matters is missing; what `--require-sandbox` asks.
    pub fn is_complete(&self) -> bool {
        self.missing().is_empty()
    }

    /// What is missing and what that means, a clause each. Empty when complete.
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if let SystemCalls::All(why) = &self.system_calls {
            missing.push(format!(
                "no filter of system calls ({why}): code that breaks out of its guest can use the network and start programs"
            ));
        }
        if let Files::Open(why) = &self.files {
            missing.push(format!(
                "files are open ({why}): code that breaks out of its guest can read what the host's user can, also its token"
            ));
        }
        if self.capabilities_left != 0 {
            missing.push(format!("capabilities {:#x} could not be dropped", self.capabilities_left));
        }
        if !self.no_new_privileges {
            missing.push("no_new_privs could not be set".to_owned());
        }
        if !self.hidden {
            missing.push("other processes of the same user can look into it".to_owned());
        }
        if !self.descriptors_closed {
            missing.push("descriptors of its parent may be open".to_owned());
        }
        for limit in &self.limits {
            if let Some(why) = &limit.failed {
                missing.push(format!("limit {} could not be set ({why})", limit.name));
            }
        }
        missing
    }
}

/// One line for the log.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = self.missing();
        if !missing.is_empty() {
            return write!(f, "sandbox incomplete: {}", missing.join("; "));
        }
        f.write_str("sandbox complete: ")?;
        match &self.files {
            Files::Landlock { abi } => write!(f, "Landlock version {abi}")?,
            Files::NoneOpened | Files::Open(_) => f.write_str("no file can be opened")?,
        }
        if let SystemCalls::Filtered { allowed } = &self.system_calls {
            write!(f, ", {allowed} system calls")?;
        }
        for limit in &self.limits {
            write!(f, ", {} {}", limit.name, limit.value)?;
        }
        f.write_str(", no capabilities")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> Report {
        Report {
            files: Files::Landlock { abi: 1 },
            system_calls: SystemCalls::Filtered { allowed: 50 },
            limits: vec![Limit { name: "core".to_owned(), value: 0, failed: None }],
            capabilities_left: 0,
            no_new_privileges: true,
            hidden: true,
            dies_with_host: true,
            killed_first: true,
            descriptors_closed: true,
        }
    }

    #[test]
    fn what_is_missing_is_said_with_what_it_means() {
        type Break = fn(&mut Report);
        let table: [(Break, &str); 7] = [
            (|r| r.files = Files::Open("why".to_owned()), "also its token"),
            (|r| r.system_calls = SystemCalls::All("why".to_owned()), "use the network"),
            (|r| r.capabilities_left = 2, "capabilities 0x2"),
            (|r| r.no_new_privileges = false, "no_new_privs"),
            (|r| r.hidden = false, "look into it"),
            (|r| r.descriptors_closed = false, "descriptors"),
            (|r| r.limits[0].failed = Some("why".to_owned()), "limit core"),
        ];
        for (breaks, text) in table {
            let mut report = whole();
            breaks(&mut report);
            assert!(!report.is_complete(), "{report:?}");
            let line = report.to_string();
            assert!(line.starts_with("sandbox incomplete: ") && line.contains(text), "{line}");
            assert!(!line.contains('\n'));
        }
    }

    #[test]
    fn a_kernel_without_landlock_is_enough_for_who_opens_nothing() {
        let report = Report { files: Files::NoneOpened, ..whole() };
        assert!(report.is_complete(), "{report}");
        assert_eq!(
            report.to_string(),
            "sandbox complete: no file can be opened, 50 system calls, core 0, no capabilities"
        );
    }

    #[test]
    fn conveniences_are_not_asked_for() {
        assert!(Report { dies_with_host: false, killed_first: false, ..whole() }.is_complete());
    }
}
