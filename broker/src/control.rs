//! `$CONTROL/...`: requests to the broker itself, as JSON in a PUBLISH (`enable_control_api`).
//! Always true: such a message goes to no subscriber; its answer is published below `<topic>/response`; who may write to
//! the topic may ask. Nothing here changes anything.
use crate::config::{ListenAddress, ListenerProtocol, ListenerSettings};
use serde_json::{Map, Value, json};

/// Where requests begin.
pub const PREFIX: &str = "$CONTROL/";
const BROKER: &str = "$CONTROL/broker/v1";
/// Requests in one message; each is answered with more bytes than it has.
const COMMANDS_MAX: usize = 100;

/// Topic and text of the answer.
#[must_use]
pub fn answer(topic: &str, payload: &[u8], enabled: bool, listeners: &[ListenerSettings]) -> (String, String) {
    let text = if enabled && topic == BROKER {
        json!({ "responses": responses(payload, listeners) }).to_string()
    } else {
        r#"{"error": "endpoint not available"}"#.to_owned()
    };
    (format!("{topic}/response"), text)
}

fn responses(payload: &[u8], listeners: &[ListenerSettings]) -> Vec<Value> {
    let unknown = |error: &str| vec![failed("Unknown command", error, None)];
    let Ok(request) = serde_json::from_slice::<Value>(payload) else { return unknown("Payload not valid JSON") };
    let Some(commands) = request.get("commands").and_then(Value::as_array) else {
        return unknown("Invalid/missing commands");
    };
    if commands.len() > COMMANDS_MAX {
        return unknown("Too many commands");
    }
    let mut responses = Vec::new();
    for command in commands {
        match respond(command, listeners) {
            Ok(response) => responses.push(response),
            // What follows a malformed one is not looked at.
            Err(response) => {
                responses.push(response);
                break;
            }
        }
    }
    responses
}

fn respond(command: &Value, listeners: &[ListenerSettings]) -> Result<Value, Value> {
    let Some(command) = command.as_object() else {
        return Err(failed("Unknown command", "Command not an object", None));
    };
    let Some(name) = command.get("command").and_then(Value::as_str) else {
        return Err(failed("Unknown command", "Missing command", None));
    };
    let correlation = match command.get("correlationData") {
        None => None,
        Some(Value::String(text)) => Some(text.as_str()),
        Some(_) => return Err(failed(name, "Invalid correlationData data type.", None)),
    };
    let (known, data) = if name.eq_ignore_ascii_case("listListeners") {
        ("listListeners", json!({ "listeners": listeners.iter().map(listener).collect::<Vec<_>>() }))
    } else if name.eq_ignore_ascii_case("listPlugins") {
        // Plugins are libraries, and none is ever loaded: the known ones are part of the broker.
        ("listPlugins", json!({ "plugins": [] }))
    } else {
        return Ok(failed(name, "Unknown command", correlation));
    };
    Ok(with_correlation(json!({ "command": known, "data": data }), correlation))
}

fn failed(command: &str, error: &str, correlation: Option<&str>) -> Value {
    with_correlation(json!({ "command": command, "error": error }), correlation)
}

fn with_correlation(mut response: Value, correlation: Option<&str>) -> Value {
    if let (Some(text), Some(object)) = (correlation, response.as_object_mut()) {
        object.insert("correlationData".to_owned(), json!(text));
    }
    response
}

fn listener(listener: &ListenerSettings) -> Value {
    let mut shown = Map::new();
    shown.insert("port".to_owned(), json!(listener.address.port()));
    match listener.protocol {
        ListenerProtocol::Mqtt => shown.insert("protocol".to_owned(), json!("mqtt")),
        ListenerProtocol::Websockets => shown.insert("protocol".to_owned(), json!("mqtt+websockets")),
        ListenerProtocol::HttpApi => None,
    };
    match &listener.address {
        ListenAddress::Tcp { host: Some(host), .. } => shown.insert("bind-address".to_owned(), json!(host)),
        ListenAddress::Tcp { host: None, .. } => None,
        ListenAddress::Unix(path) => shown.insert("socket-path".to_owned(), json!(path.display().to_string())),
    };
    shown.insert("tls".to_owned(), json!(listener.tls.is_some()));
    Value::Object(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(payload: &str) -> Value {
        let (topic, text) = answer(BROKER, payload.as_bytes(), true, &[]);
        assert_eq!(topic, "$CONTROL/broker/v1/response");
        serde_json::from_str(&text).expect("JSON")
    }

    #[test]
    fn each_command_is_answered_in_its_turn_until_one_is_malformed() {
        let commands = r#"{"commands":[{"command":"LISTlisteners","correlationData":"x"},{"command":"y"},7,{"command":"listPlugins"}]}"#;
        let expected = json!({"responses": [
            {"command": "listListeners", "data": {"listeners": []}, "correlationData": "x"},
            {"command": "y", "error": "Unknown command"},
            {"command": "Unknown command", "error": "Command not an object"},
        ]});
        assert_eq!(asked(commands), expected);
    }

    #[test]
    fn what_is_no_request_is_answered_so() {
        let error = |payload: &str| asked(payload)["responses"][0]["error"].clone();
        assert_eq!(error("not valid json"), "Payload not valid JSON");
        assert_eq!(error("{}"), "Invalid/missing commands");
        assert_eq!(error(r#"{"commands":[{}]}"#), "Missing command");
        let wrong = r#"{"commands":[{"command":"listPlugins","correlationData":true}]}"#;
        assert_eq!(error(wrong), "Invalid correlationData data type.");
        let many = format!(r#"{{"commands":[{}{{}}]}}"#, "{},".repeat(COMMANDS_MAX));
        assert_eq!(error(&many), "Too many commands");
        let (topic, text) = answer("$CONTROL/other/v1", b"{}", true, &[]);
        assert_eq!(
            (topic.as_str(), text.as_str()),
            ("$CONTROL/other/v1/response", r#"{"error": "endpoint not available"}"#)
        );
        assert!(answer(BROKER, b"{}", false, &[]).1.contains("not available"));
    }
}
