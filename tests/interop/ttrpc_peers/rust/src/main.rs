//! A ttRPC peer for tests: `serve SOCKET` is a server, `call SOCKET` a client of the suite's
//! contracts, on the Rust library. Both talk to the test in lines of tab-separated words; see
//! tests/support/ttrpc_peers.py for what they mean.
//!
//! The messages are those of guest/protos, whose first field is all that is used: the well-known
//! wrappers have the same bytes, so that no generated code is needed.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::future::pending;

use async_trait::async_trait;
use protobuf::well_known_types::wrappers::{BytesValue, StringValue};
use protobuf::Message;
use tokio::io::{stdin, AsyncBufReadExt, BufReader};
use ttrpc::r#async::{Client, MethodHandler, Server, Service, TtrpcContext};
use ttrpc::{get_status, Code, Error, Request, Response};

type Failure = Box<dyn StdError + Send + Sync>;

fn say(words: &[&str]) {
    println!("{}", words.join("\t"));
}

/// Says so when the call that waits is dropped.
struct Waiting;

impl Drop for Waiting {
    fn drop(&mut self) {
        say(&["cancelled", "wait"]);
    }
}

fn bytes_value(data: Vec<u8>) -> BytesValue {
    let mut value = BytesValue::new();
    value.value = data;
    value
}

fn success(reply: &dyn protobuf::MessageDyn) -> ttrpc::Result<Response> {
    let mut response = Response::new();
    response.set_status(get_status(Code::OK, ""));
    response.payload = reply
        .write_to_bytes_dyn()
        .map_err(|error| Error::Others(error.to_string()))?;
    Ok(response)
}

fn failure(code: Code, text: &str) -> Response {
    let mut response = Response::new();
    response.set_status(get_status(code, text));
    response
}

fn parse<M: Message>(request: &Request) -> ttrpc::Result<M> {
    M::parse_from_bytes(&request.payload).map_err(|error| Error::Others(error.to_string()))
}

struct GetTeeType;

#[async_trait]
impl MethodHandler for GetTeeType {
    async fn handler(&self, _: TtrpcContext, _: Request) -> ttrpc::Result<Response> {
        success(&bytes_value(b"sample".to_vec()))
    }
}

struct GetEvidence;

#[async_trait]
impl MethodHandler for GetEvidence {
    async fn handler(&self, _: TtrpcContext, request: Request) -> ttrpc::Result<Response> {
        let asked: BytesValue = parse(&request)?;
        success(&bytes_value(asked.value.len().to_string().into_bytes()))
    }
}

struct GetResource;

#[async_trait]
impl MethodHandler for GetResource {
    async fn handler(&self, context: TtrpcContext, request: Request) -> ttrpc::Result<Response> {
        let asked: StringValue = parse(&request)?;
        let (what, argument) = asked.value.split_once(':').unwrap_or((&asked.value, ""));
        say(&["started", what]);
        let data = match what {
            "fail" => {
                let text = "[CDH] [ERROR]: Get Resource failed";
                return Ok(failure(Code::INTERNAL, text));
            }
            "empty" => Vec::new(),
            "size" => {
                let size = argument.parse::<usize>();
                vec![0; size.map_err(|error| Error::Others(error.to_string()))?]
            }
            "metadata" => {
                let values = context.metadata.get(argument).cloned();
                values.unwrap_or_default().join(",").into_bytes()
            }
            "wait" => {
                let _waiting = Waiting;
                pending().await
            }
            _ => format!("value of {}", asked.value).into_bytes(),
        };
        success(&bytes_value(data))
    }
}

fn service(methods: Vec<(&str, Box<dyn MethodHandler + Send + Sync>)>) -> Service {
    Service {
        methods: methods
            .into_iter()
            .map(|(name, handler)| (name.to_string(), handler))
            .collect(),
        streams: HashMap::new(),
    }
}

async fn serve(path: &str) -> Result<(), Failure> {
    let agent = service(vec![
        ("GetTeeType", Box::new(GetTeeType)),
        ("GetEvidence", Box::new(GetEvidence)),
    ]);
    let resources = service(vec![("GetResource", Box::new(GetResource))]);
    let mut server = Server::new()
        .bind(&format!("unix://{path}"))?
        .register_service(HashMap::from([
            (
                "attestation_agent.AttestationAgentService".to_string(),
                agent,
            ),
            ("api.GetResourceService".to_string(), resources),
        ]));
    server.start().await?;
    say(&["ready"]);
    let mut lines = BufReader::new(stdin()).lines();
    while lines.next_line().await?.is_some() {} // the test is gone, or wants the server to go
    Ok(())
}

fn request_of(words: &[&str]) -> Result<Request, Failure> {
    let [_, service, method, payload, nano, metadata] = words else {
        return Err(format!("{} words in a line", words.len()).into());
    };
    let mut context = ttrpc::context::with_timeout(nano.parse()?);
    for pair in metadata.split_whitespace() {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        context.add(key.to_string(), value.to_string());
    }
    let mut request = Request::new();
    request.service = service.to_string();
    request.method = method.to_string();
    request.payload = from_hex(payload)?;
    request.timeout_nano = context.timeout_nano;
    request.metadata = ttrpc::context::to_pb(context.metadata);
    Ok(request)
}

fn from_hex(text: &str) -> Result<Vec<u8>, Failure> {
    let digits = text.as_bytes().chunks(2);
    let bytes = digits.map(|two| -> Result<u8, Failure> {
        Ok(u8::from_str_radix(std::str::from_utf8(two)?, 16)?)
    });
    bytes.collect()
}

fn to_hex(data: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let pairs = data.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    pairs.map(|digit| DIGITS[digit as usize] as char).collect()
}

/// Makes one call of the line: number, service, method, payload, nanoseconds, metadata.
async fn call(client: Client, number: String, request: Request) {
    match client.request(request).await {
        Ok(response) => say(&[&number, "ok", &to_hex(&response.payload)]),
        Err(Error::RpcStatus(status)) => {
            let code = status.code.value().to_string();
            say(&[&number, "status", &code, &status.message]);
        }
        Err(error) => say(&[&number, "error", &error.to_string()]),
    }
}

async fn call_all(path: &str) -> Result<(), Failure> {
    let client = Client::connect(&format!("unix://{path}")).await?;
    say(&["ready"]);
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let words: Vec<&str> = line.split('\t').collect();
        let request = request_of(&words)?;
        tokio::spawn(call(client.clone(), words[0].to_string(), request));
    }
    Ok(())
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", path] => serve(path).await,
        ["call", path] => call_all(path).await,
        _ => Err("usage: peer serve|call SOCKET".into()),
    }
}
