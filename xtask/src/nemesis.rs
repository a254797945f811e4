//! `cargo xtask nemesis`: the long form of the test that loses leaders, in runs that add up and can be resumed.
//!
//! Each run has a control plane of its own and so many rounds that its records fit into memory. What it found is written when it
//! ends, so an interrupted series keeps all but its last run.

use std::collections::BTreeMap;
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use windlass_testbed::nemesis::{Fault, Plan, Report, run};
use windlass_testbed::progress::Progress;

use crate::{build, root};

/// What is done when nobody says otherwise: each way to lose a leader.
const ROUNDS: &str = "kill=10,freeze=5,stop=5,cut=5,slow=5,hold=5";

/// Faults under which a broken build shows itself, by the rule that it breaks.
const MUTANTS: [(&str, &str); 8] = [
    ("no-fence", "hold=6"),
    ("response-anchored", "lag=6"),
    ("no-resource-version", "race=6"),
    ("wall-clock", "doze=8"),
    ("term-from-transitions", "wipe=6,kill=2"),
    ("release-before-drain", "drain=48"),
    ("unchecked-claim", "freeze=4,slow=4"),
    ("evidence-from-silence", "doze=6,freeze=2"),
];

/// How to go about it.
#[derive(clap::Args)]
pub(crate) struct Nemesis {
    /// Rounds of each fault: kill, freeze, stop, cut, slow, hold, lag, race, drain, doze, starve, wipe. Default: kill=10,freeze=5,stop=5,cut=5,slow=5,hold=5, or what shows the mutant.
    #[arg(long, value_name = "FAULT=N,..")]
    rounds: Option<String>,
    /// A lease of 3 s, a claim of 2 s. This is the default.
    #[arg(long, conflicts_with = "defaults")]
    scaled: bool,
    /// The durations that the host is shipped with: 15 s and 10 s.
    #[arg(long)]
    defaults: bool,
    /// Decides on the order of the faults and on every pause.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Rounds on one control plane, after which the checker judges.
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=200))]
    rounds_per_run: u32,
    /// API servers on the same etcd. With two, every second replica talks to the other one.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    servers: u8,
    /// Changes a second that the load makes.
    #[arg(long, default_value_t = 50)]
    rate: u32,
    /// A binary `windlass` instead of one that is built here.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Break a rule on purpose, without the fence: succeeds only if the checker finds it. `no-fence` breaks nothing else.
    #[arg(long, value_name = "NAME")]
    mutant: Option<String>,
    /// Runs of a mutant; each has to be flagged.
    #[arg(long, default_value_t = 1, requires = "mutant")]
    runs: u32,
    /// Go on where an earlier series with the same durations and mutant was interrupted.
    #[arg(long)]
    resume: bool,
}

impl Nemesis {
    pub(crate) fn run(self) -> Result<()> {
        let binary = match &self.binary {
            Some(binary) => binary.canonicalize().with_context(|| binary.display().to_string())?,
            None if self.mutant.as_deref().is_some_and(|name| name != "no-fence") => with_mutants()?,
            None => build::host(false)?,
        };
        let series = Series::open(&self.label(), self.resume)?;
        let plans = self.plans(&binary, &series)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        match &self.mutant {
            Some(name) => runtime.block_on(mutant(name, plans, series)),
            None => runtime.block_on(judged(plans, series)),
        }
    }

    fn label(&self) -> String {
        let mut label = if self.defaults { "defaults" } else { "scaled" }.to_owned();
        if self.servers > 1 {
            label += "-two-servers";
        }
        self.mutant.iter().fold(label, |label, name| format!("{label}-{name}"))
    }

    /// The runs that are still to be done.
    fn plans(&self, binary: &Path, series: &Series) -> Result<Vec<Plan>> {
        let done = series.runs.len() as u64;
        let plan = |number: u64, rounds: Vec<(Fault, u32)>| {
            let base = if self.defaults { Plan::defaults(binary) } else { Plan::scaled(binary) };
            let servers = usize::from(self.servers);
            let mut plan = Plan { rounds, rate: self.rate, servers, ..base.seed(self.seed + done + number) };
            if let Some(name) = &self.mutant {
                plan = plan.unfenced();
                match name.as_str() {
                    "no-fence" => {}
                    // As far ahead as leaves somebody time to lead: by more than the lease, everybody takes over from everybody.
                    "wall-clock" => plan = plan.flag("--mutant=wall-clock:2000"),
                    // Close to the lease, as it may be: so what is wrong about the anchor lasts longer.
                    "response-anchored" => {
                        plan.claim = plan.lease.mul_f64(0.96);
                        plan = plan.flag(format!("--mutant={name}"));
                    }
                    _ => plan = plan.flag(format!("--mutant={name}")),
                }
            }
            plan
        };
        let shown = self.mutant.as_deref().map(shown_by).transpose()?;
        let mut wanted = parse(self.rounds.as_deref().or(shown).unwrap_or(ROUNDS))?;
        if self.mutant.is_some() {
            let left = u64::from(self.runs).saturating_sub(done);
            return Ok((0..left).map(|number| plan(number, wanted.clone().into_iter().collect())).collect());
        }
        for (fault, count) in series.total().counts() {
            let left = wanted.entry(fault).or_default();
            *left = left.saturating_sub(count);
        }
        Ok((0..)
            .zip(split(wanted, self.rounds_per_run))
            .map(|(number, rounds)| plan(number, rounds))
            .collect())
    }
}

fn shown_by(mutant: &str) -> Result<&'static str> {
    // `wall-clock:<ms>` is one of them.
    let name = mutant.split(':').next().unwrap_or_default();
    let names = || MUTANTS.map(|(name, _)| name).join(", ");
    let found = MUTANTS.iter().find(|(known, _)| *known == name);
    found
        .map(|(_, rounds)| *rounds)
        .with_context(|| format!("no mutant is called {name:?}, only: {}", names()))
}

/// `kill=10,cut=5` as numbers.
fn parse(text: &str) -> Result<BTreeMap<Fault, u32>> {
    let mut rounds = BTreeMap::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let expected = || format!("--rounds {part:?}: expected <fault>=<number>, such as kill=10");
        let (fault, count) = part.split_once('=').with_context(expected)?;
        let fault = fault.trim().parse().map_err(|error| anyhow::anyhow!("--rounds {part:?}: {error}"))?;
        rounds.insert(fault, count.trim().parse().with_context(expected)?);
    }
    Ok(rounds)
}

/// Runs of at most so many rounds, each with its share of every fault.
fn split(wanted: BTreeMap<Fault, u32>, per_run: u32) -> Vec<Vec<(Fault, u32)>> {
    let total: u32 = wanted.values().sum();
    let runs = total.div_ceil(per_run);
    let share = |number: u32, count: u32| count * (number + 1) / runs - count * number / runs;
    let of = |number| wanted.iter().map(|(fault, count)| (*fault, share(number, *count))).collect();
    (0..runs).map(of).collect()
}

/// The reports of one series, on disk.
struct Series {
    directory: PathBuf,
    runs: Vec<Report>,
}

impl Series {
    fn open(label: &str, resume: bool) -> Result<Self> {
        let directory = root().join("target/nemesis").join(label);
        if !resume && directory.exists() {
            fs::remove_dir_all(&directory).with_context(|| format!("remove {}", directory.display()))?;
        }
        fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        let mut series = Self { directory, runs: Vec::new() };
        while let Ok(text) = fs::read_to_string(series.file(series.runs.len(), "json")) {
            series.runs.push(serde_json::from_str(&text).context("an earlier report cannot be read")?);
        }
        Ok(series)
    }

    fn file(&self, number: usize, extension: &str) -> PathBuf {
        self.directory.join(format!("run-{number:03}.{extension}"))
    }

    async fn play(&mut self, plan: &Plan) -> Result<&Report> {
        let began = Instant::now();
        let done = Box::pin(run(plan, &Shown::default())).await?;
        let number = self.runs.len();
        fs::write(self.file(number, "svg"), done.picture)?;
        fs::write(self.file(number, "json"), serde_json::to_string_pretty(&done.report)?)?;
        println!(
            "run {number}: {} rounds in {:.0} s, {:?}",
            done.report.rounds.len(),
            began.elapsed().as_secs_f64(),
            done.report.outcome()
        );
        self.runs.push(done.report);
        self.runs.last().context("one was just added")
    }

    fn total(&self) -> Report {
        let mut total = Report::default();
        for run in &self.runs {
            total.absorb(run.clone());
        }
        total
    }

    /// Writes and prints what all runs came to.
    fn conclude(&self) -> Result<Report> {
        let total = self.total();
        let verdict = self.directory.join("verdict.json");
        fs::write(&verdict, serde_json::to_string_pretty(&total)?)?;
        println!("\n{}\n\n{} and one picture a run beside it", total.summary(), verdict.display());
        Ok(total)
    }
}

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// How far a run is: one line that changes on a terminal, a line now and then elsewhere.
#[derive(Default)]
pub(crate) struct Shown {
    state: Mutex<Option<(Instant, Instant)>>,
}

impl Progress for Shown {
    fn begin(&self, label: &str, note: &str) {
        eprintln!("{label}: {note}");
        let now = Instant::now();
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, now));
    }

    fn step(&self, done: u64, total: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((began, last)) = state.as_mut() else { return };
        let line = format!("  round {done} of {total}, {} s", began.elapsed().as_secs());
        if std::io::stderr().is_terminal() {
            eprint!("\r{line}\x1b[K");
        } else if last.elapsed() > LINE_EVERY {
            *last = Instant::now();
            eprintln!("{line}");
        }
    }

    fn finish(&self, _success: bool) {
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
    }
}

async fn judged(plans: Vec<Plan>, mut series: Series) -> Result<()> {
    for plan in &plans {
        let report = series.play(plan).await?;
        if !report.passed() {
            eprintln!("{}", report.summary());
        }
    }
    ensure!(series.conclude()?.passed(), "a promise was broken, or the records do not say");
    Ok(())
}

async fn mutant(name: &str, plans: Vec<Plan>, mut series: Series) -> Result<()> {
    for plan in &plans {
        series.play(plan).await?;
    }
    series.conclude()?;
    let (runs, flagged) = (series.runs.len(), series.runs.iter().filter(|run| run.flagged()).count());
    println!("{name}: flagged in {flagged} of {runs} runs");
    if flagged < runs {
        bail!("{name} was not flagged in {} of {runs} runs", runs - flagged);
    }
    Ok(())
}

/// A host whose rules can be broken, kept apart from the one that cannot.
fn with_mutants() -> Result<PathBuf> {
    let status = Command::new("cargo")
        .current_dir(root())
        .args(["build", "--locked", "--bin", "windlass", "--features", "windlass-host/mutants"])
        .status()
        .context("start cargo")?;
    ensure!(status.success(), "the host does not build with its mutants");
    let built = root().join("target/debug/windlass");
    let kept = root().join("target/nemesis/windlass-mutants");
    fs::create_dir_all(root().join("target/nemesis"))?;
    // The next ordinary build would put itself in its place.
    fs::copy(&built, &kept).with_context(|| format!("copy {}", built.display()))?;
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_read_and_spread_over_runs_without_loss() {
        let wanted = parse("kill=10,freeze=3, cut=1").expect("valid");
        let runs = split(wanted.clone(), 5);
        assert_eq!(runs.len(), 3);
        for (fault, count) in wanted {
            let sum: u32 = runs.iter().flatten().filter(|(f, _)| *f == fault).map(|(_, n)| n).sum();
            assert_eq!(sum, count, "{fault}");
        }
        assert!(runs.iter().all(|run| run.iter().map(|(_, n)| n).sum::<u32>() <= 6));
        for bad in ["kill", "kill=x", "nap=1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(split(BTreeMap::new(), 5).is_empty());
    }

    #[test]
    fn each_mutant_has_faults_that_show_it() {
        for (name, rounds) in MUTANTS {
            assert_eq!(shown_by(name).expect("known"), rounds);
            assert!(parse(rounds).expect("valid").values().sum::<u32>() > 0);
        }
        assert!(shown_by("wall-clock:-5").is_ok());
        assert!(shown_by("x").is_err());
    }
}
