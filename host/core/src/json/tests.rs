//! Tables over [`parse`], and its agreement with the general reader.

use serde_json::json;

use super::*;

fn read(text: &str) -> Result<Value, JsonError> {
    parse(text, &mut Room::default())
}

fn code(text: &str) -> Code {
    read(text).expect_err(text).refusal("children[0]").code
}

#[test]
fn what_is_json_is_read_as_the_general_reader_does() {
    for text in [
        "{}",
        "[]",
        " [1, -2 ,3.5,1e3,2E-2,0,-0.0,9223372036854775807,-9223372036854775808]\r\n",
        r#"{"a":{"b":[true,false,null]},"c":"\"\\\/\b\f\n\r\t\u00fc\ud83d\ude00 ü 😀"}"#,
        r#""""#,
        "0.1",
        "5e-324",
        "1.7976931348623157e308",
        "0.30000000000000004",
        "1e23",
        "100.00",
    ] {
        let want: Value = serde_json::from_str(text).expect(text);
        assert_eq!(read(text).expect(text), want, "{text}");
    }
}

#[test]
fn what_is_not_json_is_refused() {
    for text in [
        "",
        " ",
        "\u{feff}{}",
        "{} {}",
        "{}x",
        "{\"a\":1,}",
        "[1,]",
        "[,]",
        "{a:1}",
        "{'a':1}",
        "{\"a\" 1}",
        "{\"a\":}",
        "[1 2]",
        "tru",
        "NaN",
        "Infinity",
        "-Infinity",
        "[nan]",
        "+1",
        "01",
        "-",
        "1.",
        ".5",
        "1e",
        "1e+",
        "0x10",
        "\"a",
        "\"a\nb\"",
        "\"\\x\"",
        "\"\\",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "// a comment\n{}",
    ] {
        assert_eq!(code(text), Code::InvalidJson, "{text}");
    }
}

#[test]
fn a_surrogate_alone_is_no_character() {
    for text in [
        r#""\ud800""#,
        r#""\udc00""#,
        r#""\ud800\ud800""#,
        r#""\ud800x""#,
        r#""\ud800\n""#,
        r#""\udc00\ud800""#,
    ] {
        let error = read(text).expect_err(text);
        assert!(error.to_string().contains("lone surrogate"), "{text}: {error}");
    }
}

#[test]
fn a_number_that_would_become_another_one_is_refused() {
    for text in [
        "1e400",
        "-1e400",
        "1e-400",
        "1e99999999999999999999",
        "9223372036854775808",
        "-9223372036854775809",
        "123456789012345678901234567890",
        "9007199254740993.0",
        "0.10000000000000000555",
    ] {
        let error = read(text).expect_err(text);
        assert!(error.to_string().contains("would not survive"), "{text}: {error}");
    }
    for text in ["0e99999999999999999999", "0.0", "-0", "-0.0e5"] {
        assert_eq!(read(text).expect(text).as_f64(), Some(0.0), "{text}");
    }
}

#[test]
fn a_key_that_is_there_twice_is_named_with_its_path_at_any_depth() {
    for (text, said) in [
        (r#"{"spec":1,"spec":1}"#, "at 1:11: spec is there twice; keep one"),
        ("{\"a\":\n {\"b\":[{},{\"c\":1,\n  \"\\u0063\":2}]}}", "at 3:3: a.b[1].c is there twice; keep one"),
    ] {
        let error = read(text).expect_err(text);
        assert_eq!((error.fault.clone(), &*error.to_string()), (JsonFault::DuplicateKey, said));
        assert_eq!(error.refusal("x").code, Code::DuplicateKey);
    }
}

#[test]
fn depth_is_bounded_long_before_the_stack_is() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert!(read(&nested(DEPTH_MAX)).is_ok());
    assert_eq!(code(&nested(DEPTH_MAX + 1)), Code::TooDeep);
    assert_eq!(code(&"[".repeat(4 << 20)), Code::TooDeep);
    assert_eq!(code(&"{\"a\":".repeat(10_000)), Code::TooDeep);
    // One after the other is not one inside the other.
    assert!(read(&format!("[{}1]", "[],".repeat(1000))).is_ok());
}

#[test]
fn text_that_is_made_to_grow_is_stopped() {
    let most = 4 << 20;
    for unit in ["{\"\":0},", "[],", "0,", "[0],", "{\"\":{\"\":0}},"] {
        let text = format!("[{}0]", unit.repeat(most / unit.len()));
        assert_eq!(code(&text), Code::OutputTooLarge, "{unit}");
    }
    let mut room = Room::new(3000);
    assert!(parse("{\"a\":{}}", &mut room).is_ok());
    let second = format!("{:?}", "x".repeat(2500));
    assert_eq!(parse(&second, &mut room).expect_err("shared").fault, JsonFault::TooLarge);
}

#[test]
fn an_ordinary_decision_of_one_and_a_half_mebibytes_has_room() {
    let child = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "registry.example.com/team/web:1.2.3",
                "resources": {"limits": {"cpu": "500m", "memory": "128Mi"}, "requests": {"cpu": "100m"}},
                "env": [{"name": "A_LONGER_NAME", "value": "and some value that people write"},
                        {"name": "ANOTHER_NAME", "value": "https://example.com/a/path?with=query"}],
                "command": ["/bin/server", "--listen=0.0.0.0:8080", "--log-level=info", "--config=/etc/web.yaml"],
                "volumeMounts": [{"name": "data", "mountPath": "/var/lib/web/data"}]}],
                "volumes": [{"name": "data", "configMap": {"name": "a-config-map-of-some-length"}}]}}},
    })
    .to_string();
    let mut room = Room::default();
    for n in 0..(3 << 19) / child.len() {
        assert!(parse(&child, &mut room).is_ok(), "child {n}");
    }
}

#[test]
fn an_error_says_line_and_character() {
    let error = read("{\n  \"ü\": [1, x]}").expect_err("x");
    assert_eq!((error.line, error.column, &*error.path), (2, 12, "ü[1]"));
    assert_eq!(error.to_string(), "at 2:12, in ü[1]: expected a value, found 'x'");
    let error = read(&format!("{{\"{}\":x}}", "k\u{7}".repeat(1000).replace('\u{7}', "\\u0007")));
    let text = error.expect_err("x").refusal("children[0]").to_string();
    assert!(text.len() < 300 && !text.contains(char::is_control), "{text}");
}
