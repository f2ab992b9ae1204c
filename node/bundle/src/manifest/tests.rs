use super::*;

const HELLO: &str = r#"
name = "hello"
domain = "Hello.test."

[web]
command = "./hello"
instances = 2
health = "/up"

[env]
GREETING = "hi"
WORKERS = 4
DEBUG = false
"#;

fn error_of(text: &str) -> ManifestError {
    parse_manifest(text).expect_err("must be refused")
}

#[test]
fn a_manifest_is_read_with_its_defaults() {
    let manifest = parse_manifest(HELLO).unwrap();
    assert_eq!(manifest.name, "hello");
    assert_eq!(manifest.domain, "hello.test");
    assert_eq!(manifest.web.command, "./hello");
    assert_eq!(manifest.web.instances, Instances::fixed(2));
    assert_eq!(manifest.web.health.as_deref(), Some("/up"));
    assert!(!manifest.web.allow_public_listen);
    assert_eq!(manifest.web.test, None);
    assert_eq!(manifest.web.drain_timeout(), Duration::from_secs(30));
    assert_eq!(manifest.env["WORKERS"], "4");
    assert_eq!(manifest.env["DEBUG"], "false");
}

#[test]
fn a_manifest_survives_storage() {
    let manifest = parse_manifest(HELLO).unwrap();
    let bytes = rung_proto::encoding::encode(&manifest);
    assert_eq!(rung_proto::encoding::decode::<Manifest>(&bytes).unwrap(), manifest);
}

#[test]
fn an_unknown_key_is_an_error_with_its_line() {
    let error = error_of(&HELLO.replace("instances = 2", "instnaces = 2"));
    assert_eq!(error.line, Some(7));
    assert!(error.message.contains("instnaces"), "{error}");
    let error = error_of(&format!("colour = 1\n{HELLO}"));
    assert_eq!(error.line, Some(1));
}

#[test]
fn a_tier_that_this_version_lacks_is_refused_by_name() {
    for section in ["cache", "worker.resize", "static", "queue", "cdn"] {
        let error = error_of(&format!("{HELLO}\n[{section}]\nx = 1\n"));
        let tier = section.split('.').next().unwrap();
        assert!(error.message.contains(&format!("does not serve [{tier}]")), "{error}");
        assert_eq!(error.line, Some(15), "{error}");
    }
}

#[test]
fn every_value_is_checked_where_it_stands() {
    let cases = [
        (r#"name = "hello""#, r#"name = "Hello""#, 2),
        (r#"name = "hello""#, r#"name = "-x""#, 2),
        (r#"name = "hello""#, r#"name = "../x""#, 2),
        (r#"name = "hello""#, "name = \"\"", 2),
        (r#""Hello.test.""#, r#""a..b""#, 3),
        (r#""Hello.test.""#, r#""10.0.0.1""#, 3),
        (r#""Hello.test.""#, r#""a b""#, 3),
        (r#""./hello""#, r#"" ""#, 6),
        (r#""./hello""#, r#""a\u0000b""#, 6),
        ("instances = 2", "instances = \"5..2\"", 7),
        ("instances = 2", "instances = 1001", 7),
        ("instances = 2", "instances = -1", 7),
        ("instances = 2", "instances = \"+1\"", 7),
        (r#""/up""#, r#""up""#, 8),
        (r#""/up""#, r#""/u\r\nHost: x""#, 8),
        ("GREETING", "PORT", 11),
        ("GREETING", "RUNG_NODE", 11),
        ("GREETING", "\"A=B\"", 11),
        ("\"hi\"", "\"\\u0000\"", 11),
        ("\"hi\"", "1.5", 11),
    ];
    for (from, to, line) in cases {
        let error = error_of(&HELLO.replace(from, to));
        assert_eq!(error.line, Some(line), "{to}: {error}");
    }
}

#[test]
fn a_manifest_without_web_is_refused() {
    let error = error_of("name = \"a\"\ndomain = \"a.test\"\n");
    assert!(error.message.contains("[web]"), "{error}");
}

#[test]
fn durations_have_a_unit_and_a_bound() {
    assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
    assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
    for wrong in ["", "5", "5h", "s", "-1s", "99999999999999999999s", "2000m", "1 s"] {
        assert!(parse_duration(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn instances_print_as_they_are_read() {
    for text in ["0", "1", "2..8", "1000"] {
        assert_eq!(text.parse::<Instances>().unwrap().to_string(), text);
    }
    assert_eq!("3..3".parse::<Instances>().unwrap(), Instances::fixed(3));
}

#[test]
fn an_oversized_manifest_is_refused_before_it_is_parsed() {
    let error = error_of(&"#".repeat(MAX_BYTES + 1));
    assert!(error.message.contains("more than"), "{error}");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,400}", at in 0usize..200, insert in ".{0,8}") {
        let _ = parse_manifest(&text);
        let mut mutated = HELLO.to_owned();
        let at = (0..=at.min(HELLO.len())).rev().find(|i| HELLO.is_char_boundary(*i)).unwrap_or(0);
        mutated.insert_str(at, &insert);
        let _ = parse_manifest(&mutated);
    }
}
