//! The peer: tokio-tungstenite on one thread, as its examples use it.

use futures_util::SinkExt;
use futures_util::StreamExt;
use std::io;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::{self, Sender, error::RecvError};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::{Error, Message};

/// Messages that a slow reader may be behind.
const BEHIND_MAX: usize = 4096;

pub fn run(port: u16) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let (everybody, _) = broadcast::channel(BEHIND_MAX);
        eprintln!("listening");
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(serve(stream, everybody.clone()));
        }
    })
}

async fn serve(stream: TcpStream, everybody: Sender<Message>) -> Result<(), Error> {
    let mut echoes = false;
    #[allow(clippy::result_large_err)] // Its type is the library's.
    let look = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        echoes = request.uri().path() == "/echo";
        Ok(response)
    };
    let mut socket = tokio_tungstenite::accept_hdr_async(stream, look).await?;
    if echoes {
        while let Some(message) = socket.next().await {
            let message = message?;
            if message.is_text() || message.is_binary() {
                socket.send(message).await?;
            }
        }
        return Ok(());
    }
    let mut said = everybody.subscribe();
    loop {
        tokio::select! {
            message = socket.next() => match message.transpose()? {
                Some(message) if message.is_text() => drop(everybody.send(message)),
                Some(_) => {}
                None => return Ok(()),
            },
            message = said.recv() => match message {
                Ok(message) => socket.send(message).await?,
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            },
        }
    }
}
