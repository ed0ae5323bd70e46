//! Output as it comes: events and sockets, broken off and gone on with.

use crate::{
    client::Caller,
    support::{Host, code, sandbox, trial},
};
use csb_types::Stream;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use libtest_mimic::Trial;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("events_carry_output_as_it_comes_and_end_with_the_result", events),
        trial("a_stream_that_broke_off_goes_on_without_losing_or_repeating_a_byte", resumed),
        trial("a_released_sandbox_ends_its_streams", released),
        trial("a_terminal_works_over_a_socket", socket),
        trial("many_readers_of_one_exec_see_the_same", readers),
    ]
}

/// Server-sent events of an answer.
pub struct Events {
    body: Incoming,
    text: String,
}

pub struct Event {
    pub name: String,
    pub id: Option<u64>,
    pub data: Value,
}

impl Events {
    pub async fn of(user: &Caller, method: &str, path: &str, body: Value) -> Self {
        let user = user.with("content-type", "application/json").with("accept", "text/event-stream");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let response = user.open(method, path, Full::new(body.into())).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body(), text: String::new() }
    }

    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let mut found = Event { name: "message".into(), id: None, data: Value::Null };
                let event = event.to_owned();
                self.text = rest.to_owned();
                if event.starts_with(':') {
                    continue;
                }
                for line in event.lines() {
                    match line.split_once(": ").unwrap_or((line, "")) {
                        ("event", name) => found.name = name.into(),
                        ("id", id) => found.id = Some(id.parse().unwrap()),
                        ("data", data) => found.data = serde_json::from_str(data).unwrap(),
                        other => panic!("{other:?}"),
                    }
                }
                return Some(found);
            }
            let frame = self.body.frame().await?.ok()?;
            self.text.push_str(std::str::from_utf8(&frame.into_data().ok()?).unwrap());
        }
    }
}

async fn events(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await;
    let id = sandbox(&user).await;
    let line = "echo one; echo two >&2; read x; echo $x; printf '\\377'";
    let path = format!("/api/v1/sandboxes/{id}/execs");
    let mut events = Events::of(&user, "POST", &path, json!({"command": line, "stdin": true})).await;
    let start = events.next().await.unwrap();
    assert_eq!((start.name.as_str(), &start.data["state"]), ("start", &json!("running")));
    let mut seen = (String::new(), String::new());
    let mut told = false;
    loop {
        let event = events.next().await.expect("an end");
        match event.name.as_str() {
            "stdout" if event.data["encoding"] == "base64" => seen.0.push_str(event.data["data"].as_str().unwrap()),
            "stdout" => seen.0.push_str(event.data["data"].as_str().unwrap()),
            "stderr" => seen.1.push_str(event.data["data"].as_str().unwrap()),
            "end" => {
                assert_eq!((&event.data["exit_code"], &event.data["state"]), (&json!(0), &json!("ended")));
                break;
            }
            other => panic!("{other}"),
        }
        assert_eq!(event.id, event.data["seq"].as_u64());
        if !told && seen.0.starts_with("one") && seen.1.starts_with("two") {
            // The output so far came while the command still waits for us.
            told = true;
            let exec = format!("{path}/{}", start.data["exec_id"].as_str().unwrap());
            user.send("POST", &format!("{exec}/stdin?close=true"), "three\n").await.expect(204);
        }
    }
    assert!(events.next().await.is_none());
    assert!(seen.0.starts_with("one\n") && seen.1 == "two\n", "{seen:?}");

    let body = json!({"sandbox_id": id, "code": "print(7)", "stream": true});
    let mut events = Events::of(&user.with("accept", "*/*"), "POST", "/api/v1/execute", body).await;
    let mut names = Vec::new();
    while let Some(event) = events.next().await {
        names.push(event.name);
    }
    assert_eq!(names, ["start", "stdout", "end"]);
    server.stop().await;
}

async fn resumed(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await;
    let id = sandbox(&user).await;
    let path = format!("/api/v1/sandboxes/{id}/execs");
    let body = json!({"command": "seq 1 20000; sleep 1; seq 20001 30000", "wait": false});
    let exec = user.post(&path, body).await.expect(202)["exec_id"].as_str().unwrap().to_owned();
    let output = format!("{path}/{exec}/output");
    let (mut text, mut seq, mut attempts) = (String::new(), 0, 0);
    'all: loop {
        // Turn by turn by query and by header, three events a connection.
        attempts += 1;
        let mut events = match attempts % 2 {
            0 => Events::of(&user, "GET", &format!("{output}?from={seq}"), json!(null)).await,
            _ => Events::of(&user.with("last-event-id", &seq.to_string()), "GET", &output, json!(null)).await,
        };
        for _ in 0..3 {
            let event = events.next().await.expect("more");
            if event.name == "end" {
                break 'all;
            }
            text.push_str(event.data["data"].as_str().unwrap());
            seq = event.id.unwrap();
        }
    }
    let expected: String = (1..=30000).map(|n| format!("{n}\n")).collect();
    assert!(text == expected, "{} bytes instead of {}, {attempts} attempts", text.len(), expected.len());
    assert_eq!(code(&user.with("last-event-id", "x").get(&output).await), "invalid_request");
    server.stop().await;
}

async fn released(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await;
    let id = sandbox(&user).await;
    let path = format!("/api/v1/sandboxes/{id}/execs");
    let mut events = Events::of(&user, "POST", &path, json!({"command": "echo hi; sleep 60"})).await;
    assert_eq!(events.next().await.unwrap().name, "start");
    assert_eq!(events.next().await.unwrap().data["data"], "hi\n");
    user.delete(&format!("/api/v1/sandboxes/{id}")).await.expect(204);
    let end = events.next().await.unwrap();
    assert_eq!((end.name.as_str(), &end.data["killed_by"]), ("end", &json!("released")));
    assert!(events.next().await.is_none());
    server.stop().await;
}

async fn socket(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await;
    let id = sandbox(&user).await;
    let path = format!("/api/v1/sandboxes/{id}/execs");
    let body = json!({"command": ["sh"], "pty": {"cols": 80, "rows": 24}, "stdin": true, "wait": false});
    let exec = user.post(&path, body).await.expect(202)["exec_id"].as_str().unwrap().to_owned();
    assert_eq!(code(&user.get(&format!("{path}/{exec}/ws")).await), "invalid_request");

    let mut request = format!("ws://{}{path}/{exec}/ws", user.addr).into_client_request().unwrap();
    request.headers_mut().insert("authorization", user.headers[0].1.parse().unwrap());
    let stream = tokio::net::TcpStream::connect(user.addr).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    let text = |value: Value| Message::Text(value.to_string().into());
    let start = socket.next().await.unwrap().unwrap();
    let start: Value = serde_json::from_str(start.to_text().unwrap()).unwrap();
    assert_eq!((&start["type"], &start["exec_id"], &start["pty"]), (&json!("start"), &json!(exec), &json!(true)));
    socket.send(text(json!({"type": "resize", "cols": 100, "rows": 33}))).await.unwrap();
    socket.send(text(json!({"type": "nonsense"}))).await.unwrap();
    socket.send(Message::Binary("stty size; exit 5\n".into())).await.unwrap();
    let (mut output, mut errors, mut seq) = (String::new(), 0, 0);
    let end = loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Binary(frame) => {
                let (stream, after, bytes) = csb_api::ws_unframe(&frame).unwrap();
                assert_eq!((stream, after), (Stream::Pty, seq + bytes.len() as u64));
                seq = after;
                output.push_str(&String::from_utf8_lossy(bytes));
            }
            Message::Text(frame) => {
                let frame: Value = serde_json::from_str(&frame).unwrap();
                match frame["type"].as_str().unwrap() {
                    "error" => {
                        assert_eq!(frame["code"], "invalid_request");
                        errors += 1;
                    }
                    "end" => break frame,
                    other => panic!("{other}"),
                }
            }
            _ => {}
        }
    };
    assert!(output.contains("33 100"), "{output}");
    assert_eq!((errors, &end["exit_code"]), (1, &json!(5)));
    server.stop().await;
}

async fn readers(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await;
    let id = sandbox(&user).await;
    let path = format!("/api/v1/sandboxes/{id}/execs");
    let exec = user.post(&path, json!({"command": "seq 1 5000", "wait": false})).await.expect(202);
    let output = format!("{path}/{}/output", exec["exec_id"].as_str().unwrap());
    let read = |user: Caller, output: String| async move {
        let mut events = Events::of(&user, "GET", &output, json!(null)).await;
        let mut text = String::new();
        while let Some(event) = events.next().await {
            text.push_str(event.data["data"].as_str().unwrap_or(""));
        }
        text
    };
    let all = futures_util::future::join_all((0..8).map(|_| read(user.clone(), output.clone()))).await;
    let expected: String = (1..=5000).map(|n| format!("{n}\n")).collect();
    assert!(all.iter().all(|text| *text == expected));
    server.stop().await;
}
