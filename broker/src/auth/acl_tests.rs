use super::super::acl::Access::{Read, Subscribe, Write};
use super::*;

fn acl(text: &str) -> Acl {
    parse(text, "acl").unwrap()
}

fn error(text: &str) -> String {
    parse(text, "acl").unwrap_err().to_string()
}

#[test]
fn without_a_file_everything_but_sys_writes_is_allowed() {
    let acl = Acl::open();
    assert!(acl.is_open());
    for (access, topic, allowed) in [
        (Write, "a", true),
        (Read, "$SYS/broker/uptime", true),
        (Write, "$SYS/broker/uptime", false),
        (Write, "$SYS/broker/connection/x/state", true),
        (Write, "$share/g/a", false),
        (Write, "$other/a", true),
    ] {
        assert_eq!(acl.check(access, "c", None, topic), allowed, "{topic}");
    }
}

#[test]
fn an_empty_file_grants_nothing() {
    let acl = acl("# comment\n\n   \n");
    assert!(!acl.is_open());
    assert!(!acl.check(Read, "c", None, "a") && !acl.check(Write, "c", Some("u"), "a"));
    assert!(acl.check(Subscribe, "c", None, "a")); // each message is judged instead
}

#[test]
fn topics_before_a_user_line_are_for_anonymous_clients_alone() {
    let acl = acl("topic readwrite topic/global/#\ntopic deny topic/global/except\nuser u\ntopic read mine\n");
    assert!(acl.check(Read, "c", None, "topic/global"));
    assert!(!acl.check(Read, "c", None, "topic/global/except"));
    assert!(!acl.check(Read, "c", Some("u"), "topic/global"));
    assert!(acl.check(Read, "c", Some("u"), "mine") && !acl.check(Write, "c", Some("u"), "mine"));
    assert!(!acl.check(Read, "c", Some("other"), "mine") && !acl.check(Read, "c", None, "mine"));
}

#[test]
fn a_denial_goes_before_a_grant_wherever_it_stands() {
    for text in ["topic a/#\ntopic deny a/b\n", "topic deny a/b\ntopic a/#\n"] {
        let acl = acl(text);
        assert!(acl.check(Write, "c", None, "a/c") && !acl.check(Write, "c", None, "a/b"));
    }
}

#[test]
fn a_grant_for_the_user_goes_before_a_denial_by_pattern() {
    let acl = acl("user u\ntopic p/u/x\npattern deny p/%u/#\npattern q/%u\n");
    assert!(acl.check(Read, "c", Some("u"), "p/u/x"));
    assert!(!acl.check(Read, "c", Some("u"), "p/u/y"));
    assert!(acl.check(Read, "c", Some("u"), "q/u"));
}

#[test]
fn patterns_are_filled_with_whole_levels() {
    let acl = acl("pattern readwrite d/%c/%u/#\npattern write x%u\npattern read %c\n");
    assert!(acl.check(Write, "c1", Some("u1"), "d/c1/u1") && acl.check(Write, "c1", Some("u1"), "d/c1/u1/y"));
    assert!(!acl.check(Write, "c1", Some("u1"), "d/c11/u1/y"));
    assert!(!acl.check(Write, "c1", None, "d/c1//y")); // no user name: lines with %u say nothing
    assert!(!acl.check(Write, "c1", Some("u1"), "xu1") && acl.check(Write, "c1", Some("u1"), "x%u"));
    assert!(acl.check(Read, "c1", None, "c1") && !acl.check(Write, "c1", None, "c1"));
    assert!(!acl.check(Read, "", None, ""));
}

#[test]
fn hostile_names_never_widen_a_pattern() {
    let acl = acl("user +\ntopic own\npattern d/%u/%c\npattern %c/x\n");
    for (client_id, username) in
        [("c", "+"), ("c", "#"), ("+", "u"), ("#", "u"), ("a/b", "u"), ("c", "a/b"), ("+/+", "#")]
    {
        for topic in ["d/u/c", "d/v/w", "d/+/c", "d/a/b/c", "d/u/a/b", "a/b/x", "c/v", "d/#"] {
            let allowed = acl.check(Write, client_id, Some(username), topic);
            assert!(!allowed, "{client_id} {username} {topic}");
        }
    }
    assert!(acl.check(Read, "c", Some("+"), "own")); // what names the user exactly still holds
    assert!(!acl.check(Write, "$SYS", Some("u"), "$SYS/x") && !acl.check(Read, "$SYS", Some("u"), "$SYS/x"));
    assert!(acl.check(Write, "c", Some("u"), "d/u/c") && acl.check(Write, "c", Some("u"), "c/x"));
}

#[test]
fn topics_with_a_dollar_need_a_rule_with_one() {
    let acl = acl("topic #\ntopic read $SYS/broker/+\ntopic $x/#\n");
    assert!(acl.check(Read, "c", None, "any/topic"));
    assert!(acl.check(Read, "c", None, "$SYS/broker/uptime") && !acl.check(Write, "c", None, "$SYS/broker/uptime"));
    assert!(!acl.check(Read, "c", None, "$SYS/broker/load/x") && !acl.check(Read, "c", None, "$y/z"));
    assert!(acl.check(Write, "c", None, "$x/y"));
}

#[test]
fn a_shared_subscription_is_judged_by_its_messages() {
    let acl = acl("topic read a\n");
    let rights = acl.for_client("c", None);
    assert!(rights.may_subscribe(&TopicFilter::try_from("$share/g/#").unwrap()));
    let name = |text: &str| mosquorum_proto::mqtt::TopicName::try_from(text).unwrap();
    assert!(rights.may_read(&name("a")) && !rights.may_read(&name("b")) && !rights.may_write(&name("a")));
}

#[test]
fn filters_may_hold_blanks_and_access_words() {
    let acl = acl("topic read a b\r\ntopic read\n  topic   write   c  \n");
    assert!(acl.check(Read, "c", None, "a b"));
    assert!(acl.check(Write, "c", None, "read")); // a filter called "read", readwrite
    assert!(acl.check(Write, "c", None, "c") && !acl.check(Read, "c", None, "c"));
}

#[test]
fn damaged_lines_say_where_and_what() {
    for (text, expected) in [
        ("topic a\ntopic readwrite a#\n", "Error: Invalid ACL topic \"a#\" in acl_file \"acl\" line 2."),
        ("topic\n", "Error: Empty topic in acl_file \"acl\" line 1."),
        ("user \n", "Error: Missing username in acl_file \"acl\" line 1."),
        ("topic reed a\n", "Error: Invalid topic access type \"reed\""),
        ("topics a\n", "Error: Invalid line \"topics a\""),
    ] {
        assert!(error(text).starts_with(expected), "{}", error(text));
    }
    assert!(load(Path::new("/nonexistent/acl")).is_err());
}

/// Two ways to one answer.
#[test]
fn who_is_not_connected_is_judged_as_who_is() {
    let acl = acl("topic read a/#\ntopic deny a/no\nuser u\ntopic read mine/+\ntopic read $SYS/#\nuser +\ntopic own\n\
        pattern read d/%u/%c\npattern %c/x\npattern read %c\npattern write w/%c\npattern deny d/u/no/%u\n\
        pattern read e/+/%c/#\npattern read %u/+\npattern $x/%u\n");
    let names = ["c", "u", "+", "#", "", "a/b", "$x", "$SYS", "%c", "no"];
    let topics = [
        "a",
        "a/b",
        "a/no",
        "mine/x",
        "mine",
        "own",
        "d/u/c",
        "d/+/c",
        "d//c",
        "c/x",
        "x",
        "/x",
        "c",
        "u",
        "",
        "w/c",
        "d/u/no/u",
        "e/1/c",
        "e/1/c/2/3",
        "e/c",
        "u/z",
        "u/+",
        "$x/u",
        "$SYS/a",
        "$SYS/x",
        "$share/g/c",
        "a/b/x",
        "%c",
        "%c/x",
        "no",
        "$x",
        "$x/c",
    ];
    let mut allowed = 0;
    for (client_id, username) in names.iter().flat_map(|id| names.iter().map(move |name| (*id, Some(*name)))) {
        for (username, topic) in [username, None].into_iter().flat_map(|name| topics.map(|topic| (name, topic))) {
            let expected = acl.check(Read, client_id, username, topic);
            allowed += u32::from(expected);
            assert_eq!(acl.may_read(client_id, username, topic), expected, "{client_id} {username:?} {topic}");
        }
    }
    assert!(allowed > 100, "{allowed}");
    assert!(Acl::open().may_read("c", None, "a") && !Acl::open().may_read("c", None, "$share/g/a"));
}

#[test]
fn fingerprints_are_equal_where_rules_are() {
    let text = "topic a\nuser u\ntopic read b\nuser v\ntopic c\npattern d/%c\n";
    let same = "# again\n\ntopic a\nuser v\ntopic c\nuser u\ntopic read b\npattern d/%c\n";
    let of = |text: &str| acl(text).fingerprint();
    assert_eq!(of(text), of(same));
    let others = ["", "topic a\n", "pattern a\n", "user u\ntopic a\n", "topic read a\n", "topic a\ntopic b\n"];
    let mut all: Vec<u64> = others.into_iter().map(of).chain([of(text), Acl::open().fingerprint()]).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!((all.len(), all[0]), (others.len() + 2, 0));
}
