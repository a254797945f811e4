//! The catalogue of bad plugins, whole, against one real host: whatever is wrong with a plugin
//! gets its code in all the places where people look, and nobody else notices.
//!
//! | file | what |
//! |---|---|
//! | `row` | one row of the table |
//! | `loads` | the table's first half: plugins that never serve |
//! | `calls` | the second half: plugins that serve and then do wrong |
//! | `bombs` | components that are too much for the compiler |
//! | `guest`, `offer` | how components and ConfigMaps are made on the spot |
//! | `look` | whether a row got what it has to get |
//! | `good` | two plugins that behave, at work all the time |
//! | `built_in` | rows that cannot happen, and what makes that so |
//! | `processes` | the host and its children, as the kernel sees them |
//! | `reloads` | memory, files, descriptors and threads after many reloads |
//! | `deaths` | what runs plugins dies or is starved; the host goes on |

mod bombs;
mod built_in;
mod calls;
mod deaths;
mod good;
pub(crate) mod guest;
mod loads;
mod look;
mod offer;
mod processes;
mod reloads;
mod row;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use windlass_core::code::Code;

use crate::scene::{HOST, Scene, built, path, read};
use look::Facts;
use offer::Signer;
use row::{Kit, Row};

/// Namespaces of the objects that bad plugins are about, each with one object of each kind:
/// five failures in a row are a quarantine.
const NAMESPACES: usize = 5;
/// Writes to one object within a minute that are still no loop.
const WRITES_OF_A_LOOP: usize = 30;
/// How long all rows together may take. Half a minute is enough where nothing else runs.
const ALL_WITHIN: Duration = Duration::from_secs(150);

#[tokio::test]
async fn every_row_of_the_catalogue_gets_its_code_and_nobody_else_notices() {
    let scene = Scene::fresh("catalogue").await;
    let kit = kit().await;
    let rows = rows(&kit);
    is_whole(&rows);
    let namespaces = stage(&scene, &rows).await;
    good::install(&scene, &kit.signer).await;
    let keys = tempfile::tempdir().expect("a directory");
    write_keys(&keys.path().join("keys"), &kit);
    let keys_flag = format!("--plugin-keys={}", keys.path().join("keys").display());
    let artefacts = format!("--artefact-dir={}", keys.path().join("artefacts").display());
    let flags = ["--plugin-signatures=enforce", &keys_flag, &artefacts, "--sample-decisions=2"];
    let flags: Vec<&str> = flags.into_iter().chain(bombs::FLAGS).collect();
    scene.replicas(1, &flags).await;
    let pid = scene.all().await[0].pid();
    before(&scene, &rows).await;

    let done = AtomicBool::new(false);
    let judged = async {
        let began = Instant::now();
        for map in rows.iter().flat_map(|row| &row.maps) {
            scene.apply(map.clone()).await;
        }
        restless(&scene, &kit.signer).await;
        let seen = until_all_are_seen(&scene, &namespaces, &rows);
        let (lacking, ()) = tokio::join!(seen, disagree(&scene, &namespaces[0]));
        done.store(true, Ordering::Relaxed);
        (lacking, began..=Instant::now())
    };
    let (worked, (lacking, phase)) = tokio::join!(good::work(&scene, &done), judged);

    assert!(lacking.is_empty(), "{} of {} rows:\n{}", lacking.len(), rows.len(), lacking.join("\n"));
    println!(
        "{} rows in {:.1?}; meanwhile {} results of good plugins, p50 {:?}, p99 {:?}, longest {:?}",
        rows.len(),
        *phase.end() - *phase.start(),
        worked.times.len(),
        worked.percentile(50),
        worked.percentile(99),
        worked.longest(&phase),
    );
    assert!(worked.times.len() > 20, "the good plugins worked: {worked:?}");
    untouched(&scene, pid).await;
}

/// All of the table.
fn rows(kit: &Kit) -> Vec<Row> {
    let rows: Vec<Row> = [loads::rows(kit), bombs::rows(kit), calls::rows(kit), restless_rows()].concat();
    let mut names = BTreeSet::new();
    for row in &rows {
        assert!(names.insert(&row.plugin), "two rows are called {}", row.plugin);
    }
    rows
}

/// Rows of the catalogue that are shown elsewhere: in a table of their own, or as what cannot be.
const ELSEWHERE: [&str; 4] = [
    // Nothing blocks, nothing is kept: `built_in`.
    "B22", "B41", // Numbers that the catalogue leaves out.
    "B24", "B36",
];

/// Nothing of the catalogue is forgotten, and no code.
fn is_whole(rows: &[Row]) {
    let known: BTreeSet<&str> = rows.iter().map(Row::id).chain(ELSEWHERE).collect();
    let all: Vec<String> = (1..=42).map(|number| format!("B{number:02}")).collect();
    let lacking: Vec<&String> = all.iter().filter(|id| !known.contains(id.as_str())).collect();
    assert!(lacking.is_empty(), "no row for {lacking:?}");
    // What only other processes or other hosts get: those have tests of their own.
    let codes: BTreeSet<&str> = rows.iter().map(Row::number).collect();
    let beside = ["E152", "E180", "E181", "E182", "E203", "E205", "E207"];
    let all = Code::ALL.iter().map(Code::to_string);
    let lacking: Vec<String> =
        all.filter(|code| !codes.contains(&code[..4]) && !beside.contains(&&code[..4])).collect();
    assert!(lacking.is_empty(), "no row for {lacking:?}");
}

async fn kit() -> Kit {
    Kit {
        signer: Signer::new(),
        expired: Signer::new(),
        stranger: Signer::new(),
        needs_sockets: built("windlass-fixtures", Some("needs_sockets")).await,
    }
}

fn write_keys(directory: &std::path::Path, kit: &Kit) {
    std::fs::create_dir(directory).expect("a directory");
    for (file, signer, comment) in
        [("release.pub", &kit.signer, "release"), ("old.pub", &kit.expired, "not-after=2026-01-01T00:00:00Z")]
    {
        std::fs::write(directory.join(file), signer.public(comment)).expect("a file");
    }
}

/// Kinds, rights, namespaces and objects for what is called, and the plugins that serve before.
async fn stage(scene: &Scene, rows: &[Row]) -> Vec<String> {
    scene.control().apply(&kinds()).await.expect("the kinds apply");
    let accepted = read("deploy/components/signatures/accepted.yaml");
    scene.control().apply(&accepted).await.expect("what was accepted applies");
    let mut namespaces = Vec::new();
    for i in 0..NAMESPACES {
        namespaces.push(scene.control().namespace(&format!("rows{i}")).await.expect("a namespace"));
    }
    for namespace in &namespaces {
        let theirs = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"namespace": namespace, "name": calls::THEIRS}, "data": {"text": "theirs"}});
        scene.apply(theirs).await;
    }
    for kind in calls::KINDS {
        let all = row_path(kind);
        scene.until(&format!("{kind} is served"), || async { scene.get(&all).await.map(drop) }).await;
    }
    let all = namespaces
        .iter()
        .flat_map(|namespace| calls::KINDS.map(|kind| row_object(kind, namespace).to_string()));
    scene.control().apply(&all.collect::<Vec<_>>().join("\n---\n")).await.expect("the objects apply");
    for map in rows.iter().flat_map(|row| &row.before) {
        scene.apply(map.clone()).await;
    }
    namespaces
}

fn row_path(kind: &str) -> String {
    format!("/apis/{}/v1/{}s", calls::GROUP, kind.to_ascii_lowercase())
}

fn row_object(kind: &str, namespace: &str) -> Value {
    json!({
        "apiVersion": format!("{}/v1", calls::GROUP), "kind": kind,
        "metadata": {"namespace": namespace, "name": "it"},
        // Enough to be too much for a small limit.
        "spec": {"padding": "x".repeat(2048)},
    })
}

/// The kinds that bad plugins are about, and the right to them.
fn kinds() -> String {
    let mut all = String::new();
    for kind in calls::KINDS {
        let (group, singular) = (calls::GROUP, kind.to_ascii_lowercase());
        all += &format!(
            "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: {singular}s.{group}}}
spec:
  group: {group}
  scope: Namespaced
  names: {{kind: {kind}, plural: {singular}s, singular: {singular}}}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}
---"
        );
    }
    let rights = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: windlass-rows
  labels: {windlass.dev/aggregate-to-host: 'true'}
rules:
  - {apiGroups: [GROUP], resources: ['*'], verbs: [get, list, watch, patch, update]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: windlass-rows
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: windlass-rows}
subjects:
  - {apiGroup: rbac.authorization.k8s.io, kind: Group, name: 'system:serviceaccounts:windlass-system'}
";
    all + &rights.replace("GROUP", calls::GROUP)
}

/// Waits until what is to serve before the bad versions come does.
async fn before(scene: &Scene, rows: &[Row]) {
    for map in rows.iter().flat_map(|row| &row.before) {
        let name = map["metadata"]["name"].as_str().expect("a name");
        scene
            .until(&format!("{name} serves"), || async {
                let map = scene.get(&path("ConfigMap", HOST, name)).await?;
                (map["metadata"]["annotations"]["windlass.dev/state"] == "serving").then_some(())
            })
            .await;
    }
}

/// Looks until each row has got what it has to get, and answers with what is lacking in the end.
async fn until_all_are_seen(scene: &Scene, namespaces: &[String], rows: &[Row]) -> Vec<String> {
    let began = Instant::now();
    let namespaces: Vec<String> = namespaces.iter().cloned().chain([scene.namespace.clone()]).collect();
    let mut open: Vec<&Row> = rows.iter().collect();
    loop {
        let facts = Facts::now(scene, &namespaces).await;
        let late = began.elapsed() > ALL_WITHIN;
        let mut lacking = Vec::new();
        let mut still = Vec::new();
        for row in open {
            if let Some(missing) = facts.missing(scene, row).await {
                lacking.push(format!("{} ({}): {missing}", row.what, row.code));
                still.push(row);
            }
        }
        if still.is_empty() || late {
            return lacking;
        }
        open = still;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// B37: the SDK's clock and randomness, in a fixture. Its name is its own.
fn restless_rows() -> Vec<Row> {
    let row = |what, seen, code, says: &[&str]| Row {
        plugin: "restless".into(),
        ..Row::new(what, seen, code, says, vec![offer::empty("restless")])
    };
    vec![row(
        "B37 restless",
        row::Seen::Warned,
        "W310 NonDeterministic",
        &["the same inputs gave another decision"],
    )]
}

async fn restless(scene: &Scene, signer: &Signer) {
    let component = built("windlass-fixtures", Some("restless")).await;
    scene.apply(offer::signed(signer, "restless", &component, 1)).await;
    scene.widget("restless", json!({"mode": "clock"})).await;
    scene.widget("random", json!({"mode": "random"})).await;
}

/// B37: somebody writes over a child again and again, until the host leaves it at that.
async fn disagree(scene: &Scene, namespace: &str) {
    let child = path("ConfigMap", namespace, calls::CONTESTED);
    scene.until("the contested child exists", || scene.get(&child)).await;
    for i in 0..WRITES_OF_A_LOOP + 5 {
        let mine = format!("mine {i}");
        scene.patch(&child, json!({"data": {"text": mine}})).await;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(1) {
            if scene.get(&child).await.is_none_or(|child| child["data"]["text"] != mine.as_str()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The host that began still lives and says so, and so does the process that runs plugins:
/// no row has cost more than itself.
async fn untouched(scene: &Scene, pid: u32) {
    let mut replicas = scene.all().await;
    let replica = &mut replicas[0];
    replica.check_alive().expect("the host lives");
    assert_eq!(replica.pid(), pid);
    assert_eq!(replica.probe("/livez").await.expect("it answers").0, 200);
    assert_eq!(replica.metric("windlass_worker_restarts_total").await, Some(0.0), "no worker died of a row");
    assert_eq!(replica.metric("windlass_worker_up").await, Some(1.0));
    let log = replica.log();
    assert!(!log.contains("mistake of the host"), "the host has made no mistake");
    assert!(!log.contains("\u{1b}[31mred"), "no escape code of a plugin's reaches a terminal");
}
