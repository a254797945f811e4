use super::*;
use crate::frame::{Buffer, decode};

fn heard(said: &Said<'_>) -> Result<Heard, MessageError> {
    let mut buffer = Buffer::default();
    buffer.encode(said, FRAME_MAX_BYTES).expect("encodes");
    hear(buffer.body())
}

fn called(decision: Decision) -> Called {
    Called { result: Ok(Verdict::Decision(decision)), ..Called::failed(CallError::Refused(a_refusal())) }
}

fn a_refusal() -> Refusal {
    Refusal::new(Code::Trap, "unreachable")
}

fn a_manifest() -> Manifest {
    Manifest {
        name: windlass_core::name::PluginName::try_new("webapp").expect("a name"),
        version: "1.0.0".into(),
        primary: "example.com/v1/WebApp".parse().expect("a kind"),
        children: Vec::new(),
        reads: Vec::new(),
        selects: windlass_core::scope::Scope::default(),
        strict: true,
        finalizes: true,
    }
}

#[test]
fn a_call_is_read_as_it_was_asked() {
    let call = Call {
        load: LoadId(7),
        key: "ns/a".into(),
        pass: 3,
        finalize: true,
        suspect: true,
        seed: "uid".into(),
        now: Duration::from_millis(1_234),
        primary: "{\"a\":1}".into(),
        children: vec!["{}".into(), "[]".into()],
        settings: Some("null".into()),
    };
    let mut buffer = Buffer::default();
    buffer.encode(&Request::Call { most: 99, call: &call }, 4_096).expect("encodes");
    let Requested::Call { most: 99, call: read } = decode(buffer.body()).expect("decodes") else {
        panic!("not a call")
    };
    let read = Call::from(read);
    assert_eq!(read, call);
    assert!(matches!(read.children[0], Cow::Borrowed(_)), "text stays in the frame");
}

#[test]
fn what_came_of_a_call_is_heard_as_it_was_said() {
    let decision = Decision {
        children: vec!["{}".into()],
        status: Some("{\"ready\":true}".into()),
        notices: vec![Notice {
            severity: windlass_core::decision::Severity::Warning,
            reason: "Late".into(),
            message: "is late".into(),
        }],
        requeue_after: Some(Duration::from_secs(9)),
    };
    let mut called = called(decision);
    called.read_clock = true;
    called.lines = vec![Line { level: Level::Warn, text: "hm".into() }];
    called.dropped_bytes = 4;
    called.used = Used { cpu: Duration::from_micros(5), memory_bytes: 6, decision_bytes: 7, log_bytes: 8 };
    assert_eq!(heard(&Said::Called(&called)).expect("sense"), Heard::Called(Box::new(called)));
    let failed = Called::failed(CallError::Fault(Fault::Permanent("no".into())));
    assert_eq!(heard(&Said::Called(&failed)).expect("sense"), Heard::Called(Box::new(failed)));
    let loaded = Ok(a_manifest());
    assert_eq!(heard(&Said::Loaded(&loaded)).expect("sense"), Heard::Loaded(loaded));
}

#[test]
fn a_manifest_is_checked_again() {
    let mut manifest = a_manifest();
    manifest.version.clear();
    let heard = heard(&Said::Loaded(&Ok(manifest))).expect("sense");
    assert!(matches!(&heard, Heard::Loaded(Err(refusal)) if refusal.code == Code::BadManifest), "{heard:?}");
}

#[test]
fn texts_of_strangers_are_made_printable() {
    let mut called = Called::failed(CallError::Refused(Refusal {
        code: Code::Trap,
        message: format!("\u{1b}[31m{}", "x".repeat(5_000)),
    }));
    called.lines = vec![Line { level: Level::Info, text: "a\nb".into() }];
    called.dropped_bytes = u64::MAX;
    called.used.cpu = Duration::MAX;
    let Heard::Called(called) = heard(&Said::Called(&called)).expect("sense") else { panic!("not called") };
    let Err(CallError::Refused(refusal)) = called.result else { panic!("not refused") };
    assert!(refusal.message.starts_with(" [31mx") && refusal.message.len() < 1_100);
    assert_eq!(called.lines[0].text, "a b");
    assert!(called.dropped_bytes < u64::MAX / 1_000 && called.used.cpu < Duration::from_secs(1 << 20));
}

#[test]
fn what_an_honest_process_never_says_is_nonsense() {
    let gvk: windlass_core::kind::Gvk = "v1/ConfigMap".parse().expect("a kind");
    let of = |namespace: &str, name: &str| ObjectRef {
        gvk: gvk.clone(),
        namespace: namespace.into(),
        name: name.into(),
    };
    assert_eq!(heard(&Said::Ask(Ask::Get(&of("", "a")))).expect("sense"), Heard::Get(of("", "a")));
    for bad in [of("a", ""), of("a", "../b"), of("a/b", "c"), of("a", &"x".repeat(254))] {
        assert!(heard(&Said::Ask(Ask::Get(&bad))).is_err(), "{bad}");
    }
    let query = |namespace: Option<&str>, labels: usize, bytes: usize| Query {
        gvk: gvk.clone(),
        namespace: namespace.map(Into::into),
        labels: vec![("l".into(), "x".repeat(bytes)); labels],
    };
    assert!(heard(&Said::Ask(Ask::List(&query(Some("a"), 16, 63)))).is_ok());
    for bad in [query(Some(""), 0, 0), query(Some("a b"), 0, 0), query(None, 17, 1), query(None, 1, 1 << 16)]
    {
        assert!(heard(&Said::Ask(Ask::List(&bad))).is_err());
    }
    let plugin = windlass_core::name::PluginName::try_new("other").expect("a name");
    assert!(heard(&Said::Called(&Called::failed(CallError::NotServing(plugin)))).is_err());
    let warning = Refusal::new(Code::RequeueClamped, "late");
    assert!(heard(&Said::Loaded(&Err(warning))).is_err());
    for bad in [&[][..], &[9], &[2, 0], &[1, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f], &[0xff; 64]] {
        assert!(hear(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn whatever_bytes_come_they_are_judged() {
    let called = called(Decision { children: vec!["{}".into(); 3], ..Decision::default() });
    let mut buffer = Buffer::default();
    buffer.encode(&Said::Called(&called), 4_096).expect("encodes");
    let good = buffer.body().to_vec();
    let (mut state, mut judged) = (7u64, 0);
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..=state % 4 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (state >> 33) as usize % bytes.len();
            bytes[at] = (state >> 24) as u8;
        }
        bytes.truncate((state >> 40) as usize % (2 * good.len()));
        judged += usize::from(hear(&bytes).is_ok());
    }
    assert!(judged > 0 && judged < 20_000, "some of both: {judged}");
}

#[test]
fn empty_items_do_not_multiply_in_memory() {
    let decision = Decision { children: vec![String::new(); ITEMS_MAX + 1], ..Decision::default() };
    let called = called(decision);
    assert!(heard(&Said::Called(&called)).is_err(), "more than an honest process carries over");
    let fit = fitting(called);
    assert!(matches!(&fit.result, Err(CallError::Refused(r)) if r.code == Code::TooManyChildren));
    let mut loud = Called::failed(CallError::Refused(a_refusal()));
    loud.lines = vec![Line { level: Level::Info, text: "x".into() }; LINES_MAX + 5];
    let fit = fitting(loud);
    assert_eq!((fit.lines.len(), fit.dropped_bytes), (LINES_MAX, 10));
    assert!(heard(&Said::Called(&fit)).is_ok());
}

#[test]
fn answers_are_read_as_they_were_given() {
    let texts = [Text::Own("{}".into()), Text::Own("[1]".into())];
    let mut buffer = Buffer::default();
    buffer.encode(&Answer::List(Texts(&texts)), 64).expect("encodes");
    let answered: Answered = decode(buffer.body()).expect("decodes");
    assert!(matches!(answered, Answered::List(list) if *list == ["{}".into(), "[1]".into()]));
    buffer.encode(&Answer::Object(None), 64).expect("encodes");
    assert!(matches!(decode(buffer.body()), Ok(Answered::Object(None))));
    buffer.encode(&Answer::Refused(&a_refusal()), 64).expect("encodes");
    assert!(matches!(decode(buffer.body()), Ok(Answered::Refused(r)) if r == a_refusal()));
}
