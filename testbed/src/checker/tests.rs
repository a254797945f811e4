//! Histories as tables, one for each class of write and one for each hole.
//!
//! A row is a revision with the request that made it: revision, arrival and answer in milliseconds, claim, what.
//! `role` and `lease` in the claim's place announce one; `-` is somebody who is no replica. An answer `open` never came, `504` said
//! nothing. A revision `=7` was answered but made nothing new; `-` names none. A row without a request has `none` as its arrival.

use proptest::prelude::*;

use super::*;

const MS: i64 = 1_000;

fn kinds() -> Vec<Kind> {
    vec![
        Kind::new("", "configmaps"),
        Kind::new("", "events").expiring(),
        Kind::new("rbac.authorization.k8s.io", "roles").only("host", "windlass-claim"),
        Kind::new("coordination.k8s.io", "leases").only("host", "windlass"),
    ]
}

fn object(name: &str) -> Object {
    match name.split_once(':') {
        Some((resource, name)) => Object::new(resource, "ns", name),
        None => Object::new("configmaps", "ns", name),
    }
}

fn effect(verb: &str) -> Option<Effect> {
    Some(match verb {
        "create" => Effect::Created,
        "patch" => Effect::Updated,
        "delete" => Effect::Deleted,
        _ => return None,
    })
}

/// Reads a table.
fn history(table: &str) -> History {
    let mut history = History { first: 1, last: 1000, kinds: kinds(), ..History::default() };
    for (number, row) in table.lines().map(str::trim).filter(|row| !row.is_empty()).enumerate() {
        let cells: Vec<&str> = row.split_whitespace().collect();
        let [revision, received, answered, claim, verb, rest @ ..] = &cells[..] else { panic!("{row}") };
        let target = match *claim {
            "role" => Object::new("roles.rbac.authorization.k8s.io", "host", "windlass-claim"),
            "lease" => Object::new("leases.coordination.k8s.io", "host", "windlass"),
            _ => object(rest.first().copied().unwrap_or_default()),
        };
        let announces = matches!(*claim, "role" | "lease");
        if let Ok(revision) = revision.parse() {
            let effect = if announces { Effect::Updated } else { effect(verb).expect("a verb") };
            history.changes.push(Change { revision, object: target.clone(), effect });
        }
        let Ok(received) = received.parse::<i64>() else { continue };
        let flag = |name: &str| rest.iter().find_map(|cell| cell.strip_prefix(name)?.strip_prefix('='));
        let replica = claim.contains('/');
        let deletes = *verb == "delete" && flag("marks").is_none();
        history.requests.push(Request {
            audit_id: format!("r{number}"),
            verb: Verb::parse(verb).unwrap_or(Verb::Update),
            object: target,
            sender: flag("from").unwrap_or("host").to_owned(),
            account: if replica { "system:serviceaccount:host:plugin-p" } else { "somebody" }.to_owned(),
            claim: replica.then(|| (*claim).to_owned()),
            plugin: (replica && !rest.contains(&"bare")).then(|| "p@sha256:0".to_owned()),
            received_us: received * MS,
            timeout_us: flag("timeout").map_or(1_000, |ms| ms.parse().unwrap()) * MS,
            precondition: flag("pre").map(|version| version.parse().unwrap()),
            announces: announces.then(|| (*verb).to_owned()),
            answer: answer(revision.trim_start_matches('='), answered, received, deletes, &flag),
        });
    }
    history
}

fn answer<'a>(
    revision: &str,
    answered: &str,
    received: i64,
    deletes: bool,
    flag: &impl Fn(&str) -> Option<&'a str>,
) -> Option<Answer> {
    let code = flag("code").map_or(200, |code| code.parse().unwrap());
    let uid = flag("uid").map(str::to_owned);
    let deleting = flag("marks").is_some();
    let (at, code) = match answered {
        "open" => return None,
        "504" => (received + 1_000, 504),
        at => (at.parse().unwrap(), code),
    };
    let revision = revision.parse().ok().filter(|_| (200..300).contains(&code) && !deletes);
    Some(Answer { at_us: at * MS, code, revision, uid, deleting })
}

/// Two terms with a write each; what a test adds comes around them.
const TWO_TERMS: &str = "
    10    0    5  role   a_1/1
    11   10   15  a_1/1  create  x
    20  100  105  role   b_1/2
    22  120  130  b_1/2  patch   x
";

fn judged(rows: &str) -> Verdict {
    judged_by(rows, &Rules::new("host"))
}

fn judged_by(rows: &str, rules: &Rules) -> Verdict {
    let mut history = history(&format!("{TWO_TERMS}{rows}"));
    history.changes.sort_by_key(|change| change.revision);
    check(&history, rules)
}

fn breaches(verdict: &Verdict) -> Vec<Breach> {
    verdict.violations.iter().map(|violation| violation.breach).collect()
}

#[test]
fn terms_one_after_the_other_pass() {
    let verdict = judged("");
    assert_eq!((verdict.outcome, verdict.terms, verdict.writes), (Outcome::Pass, 2, 2), "{verdict:#?}");
    assert_eq!(verdict.tail + verdict.in_flight + verdict.lost, 0);
    assert_eq!(verdict.term_list[1].first_write, Some(22));
}

#[test]
fn an_old_write_before_the_new_terms_first_is_tail() {
    let verdict = judged("21  110 112  a_1/1  create  y");
    assert_eq!((verdict.outcome, verdict.tail, verdict.worst_tail_ms), (Outcome::Pass, 1, 5), "{verdict:#?}");
}

#[test]
fn a_tail_that_arrives_long_after_the_role_is_flagged() {
    let rows = "30  300 305 role c_1/3\n 31 500 505 b_1/2 create y\n 32 600 605 c_1/3 patch y";
    let verdict = judged(rows);
    assert_eq!((breaches(&verdict), verdict.tail), (vec![Breach::LongTail], 1), "{verdict:#?}");
}

#[test]
fn an_old_write_that_had_arrived_before_is_in_flight() {
    let verdict = judged("23  110 180  a_1/1  create  y");
    assert_eq!(
        (verdict.outcome, verdict.in_flight, verdict.worst_in_flight_ms),
        (Outcome::Pass, 1, 50),
        "{verdict:#?}"
    );
}

#[test]
fn an_old_write_that_outlives_its_timeout_is_flagged() {
    let verdict = judged("23  95 3000  a_1/1  create  y timeout=500");
    assert_eq!(breaches(&verdict), [Breach::Overdue], "{verdict:#?}");
}

#[test]
fn an_old_write_that_arrives_after_the_new_terms_first_answer_is_late() {
    let verdict = judged("23  131 140  a_1/1  create  y");
    assert_eq!((breaches(&verdict), verdict.worst_late_ms), (vec![Breach::Late], 26), "{verdict:#?}");
    assert_eq!(verdict.violations[0].revision, 23);
    assert_eq!(verdict.violations[0].newest, "b_1/2");
}

#[test]
fn several_servers_excuse_what_is_late_by_less_than_100_ms() {
    let rules = Rules::new("host").servers(2);
    let verdict = judged_by("23  131 140  a_1/1  create  y", &rules);
    assert_eq!((verdict.outcome, verdict.late_excused), (Outcome::Pass, 1), "{verdict:#?}");
    let verdict = judged_by("23  206 210  a_1/1  create  y", &rules);
    assert_eq!(breaches(&verdict), [Breach::Late]);
    // Never where a newer term wrote the object.
    let verdict = judged_by("23  131 140  a_1/1  patch  x", &rules);
    assert_eq!(breaches(&verdict), [Breach::Interleaved]);
}

#[test]
fn a_late_write_to_an_object_that_a_newer_term_wrote_is_interleaved() {
    for row in ["23  110 180  a_1/1  patch  x", "23  110 180  a_1/1  delete  x"] {
        let verdict = judged(row);
        assert_eq!(
            (breaches(&verdict), verdict.in_flight),
            (vec![Breach::Interleaved], 1),
            "{row} {verdict:#?}"
        );
    }
    assert_eq!(breaches(&judged("23  200 210  a_1/1  patch  x")), [Breach::Late, Breach::Interleaved]);
}

#[test]
fn a_term_between_two_others_counts_although_the_newest_has_written_nothing() {
    let verdict = judged("30 300 305 role c_1/3\n 31 310 315 a_1/1 patch x");
    assert_eq!(breaches(&verdict), [Breach::Late, Breach::Interleaved], "{verdict:#?}");
}

#[test]
fn a_create_in_flight_has_to_be_gone_in_time() {
    let base = "23  140 145  b_1/2  delete  x\n 24  110 180  a_1/1  create  x\n";
    assert_eq!(breaches(&judged(base)), [Breach::LeftBehind]);
    let verdict = judged(&format!("{base} 25  400 405  b_1/2  delete  x"));
    assert_eq!((verdict.outcome, verdict.interleaved_creates), (Outcome::Pass, 1), "{verdict:#?}");
    let verdict = judged(&format!("{base} 25  400 405  b_1/2  patch  x"));
    assert_eq!((verdict.outcome, verdict.interleaved_creates), (Outcome::Pass, 1), "{verdict:#?}");
    let verdict = judged(&format!("{base} 25  40000 40005  b_1/2  delete  x"));
    assert_eq!(breaches(&verdict), [Breach::LeftBehind], "too late");
}

#[test]
fn a_claim_that_its_writer_does_not_hold_is_mislabelled() {
    // Nobody has ever held it; it has not begun yet; its holder has a newer one; another pod sent it.
    assert_eq!(breaches(&judged("23  140 150  z_1/9  create  y")), [Breach::Mislabelled]);
    assert_eq!(breaches(&judged("12  20 25  b_1/2  create  y")), [Breach::Mislabelled]);
    let rows = "30 300 305 role a_1/3\n 31 310 315 a_1/1 create y";
    assert!(breaches(&judged(rows)).contains(&Breach::Mislabelled));
    let rules = Rules::new("host").pod("t1", "a");
    let verdict = judged_by("23  140 150  b_1/2  create  y from=t1", &rules);
    assert_eq!(breaches(&verdict), [Breach::Mislabelled]);
}

#[test]
fn a_write_without_plugin_and_digest_is_unexplained() {
    assert_eq!(breaches(&judged("23  140 150  b_1/2  create  y bare")), [Breach::Unexplained]);
}

#[test]
fn a_write_of_another_plugin_or_of_no_build_is_unexplained() {
    let mut history = history(&format!("{TWO_TERMS} 23  140 150  b_1/2  create  y"));
    for plugin in ["p", "q@sha256:1"] {
        history.requests.last_mut().expect("it is there").plugin = Some(plugin.to_owned());
        assert_eq!(breaches(&check(&history, &Rules::new("host"))), [Breach::Unexplained], "{plugin}");
    }
}

#[test]
fn a_terms_number_has_to_rise() {
    assert_eq!(breaches(&judged("30 300 305 role c_1/2")), [Breach::Term]);
    let lease = "12 20 21 lease a_1/1\n 24 200 201 lease b_1/2\n 25 210 211 lease a_1/1";
    let verdict = judged(lease);
    assert_eq!((breaches(&verdict), verdict.lease_terms.len()), (vec![Breach::Term], 3));
}

#[test]
fn without_the_role_the_lease_tells_the_terms() {
    let mut history = history(&TWO_TERMS.replace("role ", "lease"));
    history.changes.sort_by_key(|change| change.revision);
    let verdict = check(&history, &Rules::new("host"));
    assert_eq!((verdict.outcome, verdict.terms), (Outcome::Pass, 2), "{verdict:#?}");
}

#[test]
fn what_changed_nothing_is_no_write() {
    // An apply of the old leader that found everything as it wanted it: judged by nobody, as etcd has no revision of it.
    for row in ["=22  140 150  a_1/1  patch  x pre=22", "=22  140 150  a_1/1  patch  x"] {
        let verdict = judged(row);
        assert_eq!((verdict.outcome, verdict.writes), (Outcome::Pass, 2), "{row} {verdict:#?}");
    }
    // With that revision as its precondition it cannot have made it, even if nobody else is on record.
    let verdict = judged("23 none - - patch x\n =23  140 150  b_1/2  patch  x pre=23");
    assert_eq!((verdict.outcome, verdict.hole_count), (Outcome::Unknown, 1), "{verdict:#?}");
}

#[test]
fn a_revision_without_a_request_makes_the_verdict_unknown() {
    for row in ["23  none -  -  create  y", "23  none -  -  patch  x", "23  none -  -  delete  x"] {
        let verdict = judged(row);
        assert_eq!((verdict.outcome, verdict.hole_count), (Outcome::Unknown, 1), "{row} {verdict:#?}");
    }
    assert_eq!(judged("23  none -  -  delete events:e").outcome, Outcome::Pass, "Events expire");
    assert_eq!(judged("23  none -  -  create events:e").outcome, Outcome::Unknown);
}

#[test]
fn an_answer_whose_revision_etcd_does_not_know_makes_the_verdict_unknown() {
    let verdict = judged("=23  140 150  b_1/2  patch  x");
    assert_eq!((verdict.outcome, verdict.hole_count), (Outcome::Unknown, 1), "{verdict:#?}");
}

#[test]
fn a_lost_answer_explains_one_revision() {
    for answer in ["open", "504"] {
        let verdict = judged(&format!("23  140 {answer}  b_1/2  patch  x"));
        assert_eq!((verdict.outcome, verdict.lost, verdict.writes), (Outcome::Pass, 1, 3), "{verdict:#?}");
        let verdict = judged(&format!("23  140 {answer}  b_1/2  patch  x\n 24 none - - patch x"));
        assert_eq!(verdict.outcome, Outcome::Unknown);
    }
    // It is judged as if it had been answered.
    let verdict = judged("23  140 504  a_1/1  patch  x");
    assert_eq!(breaches(&verdict), [Breach::Late, Breach::Interleaved]);
    // And explains nothing that was there before it came.
    let verdict = judged("21 none - - patch x\n -  140 504  b_1/2  patch  x");
    assert_eq!(verdict.outcome, Outcome::Unknown, "{verdict:#?}");
}

#[test]
fn of_several_lost_answers_the_one_that_fits_explains_it() {
    // The old leader demanded a version that the object no longer had; the new one's was the right one.
    let verdict = judged("23  131 504  a_1/1  patch x pre=11\n -  140 504  b_1/2  patch  x pre=22");
    assert_eq!((verdict.outcome, verdict.lost), (Outcome::Pass, 1), "{verdict:#?}");
    // The old leader's had long been given up.
    let rows = "23 1500 1505 b_1/2 patch y\n 24 1510 504 b_1/2 patch x\n - 100 504 a_1/1 patch x";
    let verdict = judged(&format!("12 20 25 a_1/1 create y\n {rows}"));
    assert_eq!((verdict.outcome, verdict.lost), (Outcome::Pass, 1), "{verdict:#?}");
    // Nothing tells them apart.
    let verdict = judged("23  131 504  a_1/1  patch x\n -  140 504  b_1/2  patch  x");
    assert_eq!(verdict.hole_count, 1, "{verdict:#?}");
}

#[test]
fn a_create_without_a_name_explains_what_it_may_have_made() {
    let mut history = history(&format!("{TWO_TERMS} 23 none - - create y\n - 140 open b_1/2 create z"));
    history.requests.last_mut().expect("it is there").object.name.clear();
    history.changes.sort_by_key(|change| change.revision);
    assert_eq!(check(&history, &Rules::new("host")).outcome, Outcome::Pass);
}

#[test]
fn a_deletion_belongs_to_the_life_that_it_ended() {
    let rows = "
        30  200 205  -  create y uid=one
        31  210 215  -  delete y uid=one
        32  220 225  -  create y uid=two
        33  none - - delete y";
    assert_eq!(judged(rows).outcome, Outcome::Unknown);
    let verdict = judged(&rows.replace("33  none - - delete y", "33 230 235 b_1/2 delete y uid=two"));
    assert_eq!((verdict.outcome, verdict.writes), (Outcome::Pass, 3), "{verdict:#?}");
}

#[test]
fn the_last_finalizer_takes_the_object_with_it() {
    // The deletion marks the object; taking the finalizer off removes it, and is answered with the revision of the mark.
    let rows = "
        30  200 205  -  create y
        =31 210 215  -  delete y marks=1
        31  none - - patch y
        =31 220 225  b_1/2 patch y marks=1
        32  none - - delete y";
    let verdict = judged(rows);
    assert_eq!((verdict.outcome, verdict.writes), (Outcome::Pass, 3), "{verdict:#?}");
}

#[test]
fn the_end_of_a_collection_ends_its_objects() {
    let mut history = history(&format!("{TWO_TERMS} 23 none - - delete x\n - 140 150 - deletecollection"));
    let rules = Rules::new("host");
    assert_eq!(check(&history, &rules).outcome, Outcome::Pass);
    history.requests.last_mut().expect("it is there").object.namespace = "elsewhere".to_owned();
    assert_eq!(check(&history, &rules).outcome, Outcome::Unknown);
}

#[test]
fn a_kind_that_nobody_follows_makes_the_verdict_unknown() {
    let verdict = judged("=23 140 150 b_1/2 patch secrets:s");
    assert_eq!(verdict.outcome, Outcome::Unknown, "{verdict:#?}");
}

#[test]
fn a_history_without_terms_or_writes_does_not_pass() {
    assert_eq!(check(&History::default(), &Rules::new("host")).outcome, Outcome::Unknown);
    let quiet = history("10 0 5 role a_1/1");
    assert_eq!(check(&quiet, &Rules::new("host")).outcome, Outcome::Unknown);
}

#[test]
fn verdicts_add_up_and_keep_the_worst() {
    let (pass, fail) = (judged(""), judged("23  131 140  a_1/1  create  y"));
    let mut sum = Verdict::default();
    sum.absorb(&pass);
    assert_eq!((sum.outcome, sum.writes), (Outcome::Pass, 2));
    sum.absorb(&fail);
    sum.absorb(&pass);
    assert_eq!((sum.outcome, sum.writes, sum.late, sum.histories), (Outcome::Fail, 7, 1, 3));
    let json = serde_json::to_string(&sum).unwrap();
    assert_eq!(serde_json::from_str::<Verdict>(&json).unwrap(), sum);
}

#[test]
fn the_picture_shows_terms_writes_and_violations() {
    let mut history = history(&format!("{TWO_TERMS} 23  131 140  a_1/1  create  y"));
    history.changes.sort_by_key(|change| change.revision);
    let verdict = check(&history, &Rules::new("host"));
    let svg = timeline(&history, &verdict);
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    assert_eq!(svg.matches("fill=\"red\"").count(), 1, "{svg}");
    assert!(svg.contains("b_1/2: 1 writes"));
}

const MIXED: &str = "
    21  110 112  a_1/1  create  y
    23  110 180  a_1/1  patch   x
    24  131 140  a_1/1  create  z
    25  150 504  b_1/2  patch   y
    =25 160 170  a_1/1  patch   y
    26  180 185  -      delete  z
    27  none -   -      patch   x
    30  300 305  role   c_1/3
    31  310 open c_1/3  patch   x
    32  320 325  b_1/2  patch   y
";

proptest! {
    #[test]
    fn the_order_of_the_log_says_nothing(
        order in Just((0..13_usize).collect::<Vec<_>>()).prop_shuffle()
    ) {
        let mut history = history(&format!("{TWO_TERMS}{MIXED}"));
        history.changes.sort_by_key(|change| change.revision);
        let expected = check(&history, &Rules::new("host"));
        prop_assert!(expected.failed() && expected.hole_count > 0);
        prop_assert_eq!(history.requests.len(), order.len());
        history.requests = order.iter().map(|at| history.requests[*at].clone()).collect();
        prop_assert_eq!(check(&history, &Rules::new("host")), expected);
    }
}
