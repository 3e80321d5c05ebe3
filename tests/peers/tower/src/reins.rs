//! How a test steers a tool that runs in another process: over a socket at a path that is an argument of the call.
//!
//! The tool connects as it starts. Each line of the test is an order; the tool says what was answered, and that it was cancelled.

use std::io;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tower_mcp::{Error, Result};

pub(crate) enum Order {
    Progress(String),
    /// For the answer to a question of this key.
    Ask(String),
    /// End with this text,
    Done(String),
    /// or with this text as an error of the tool.
    Fail(String),
}

pub(crate) struct Reins {
    orders: Lines<BufReader<OwnedReadHalf>>,
    said: OwnedWriteHalf,
}

impl Reins {
    pub(crate) async fn taken(arguments: &Value) -> Result<Reins> {
        let path = arguments["reins"].as_str().ok_or_else(|| Error::tool("`reins`: the path of a socket"))?;
        let (orders, said) = UnixStream::connect(path).await.map_err(lost)?.into_split();
        Ok(Reins { orders: BufReader::new(orders).lines(), said })
    }

    pub(crate) async fn order(&mut self) -> Result<Order> {
        let line = self.orders.next_line().await.map_err(lost)?;
        let line = line.ok_or_else(|| Error::tool("the test has let go of the reins"))?;
        let (order, text) = line.split_once(' ').unwrap_or((&line, ""));
        let text = text.to_owned();
        match order {
            "progress" => Ok(Order::Progress(text)),
            "ask" => Ok(Order::Ask(text)),
            "done" => Ok(Order::Done(text)),
            "fail" => Ok(Order::Fail(text)),
            _ => Err(Error::tool(format!("`{order}` is no order"))),
        }
    }

    pub(crate) async fn say(&mut self, line: &str) -> Result<()> {
        self.said.write_all(format!("{line}\n").as_bytes()).await.map_err(lost)
    }
}

fn lost(error: io::Error) -> Error {
    Error::tool(format!("the reins are lost: {error}"))
}
