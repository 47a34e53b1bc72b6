//! The connection that breaks when COMMIT's reply is on its way: whether the names were exchanged is
//! looked up, not guessed.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};

use crate::harness;
use crate::scene::{SOON, shop};

/// Passes connections on to `server`, but for the reply to a COMMIT of the session whose name ends in
/// `/cutover`: once it is there, that connection is cut.
async fn start_proxy(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(server).await.unwrap();
            tokio::spawn(pass_on(client, server));
        }
    });
    address
}

async fn pass_on(client: TcpStream, server: TcpStream) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let replies = tokio::spawn(async move {
        let _ = copy(&mut from_server, &mut to_client).await;
        from_server
    });
    let mut cutover = false;
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
        let sent = &buffer[..length];
        let says = |text: &[u8]| sent.windows(text.len()).any(|w| w == text);
        cutover |= says(b"/cutover\0");
        if cutover && says(b"COMMIT\0") {
            // The reply is answered to nobody: both directions of the client's are closed before.
            replies.abort();
            let _ = replies.await;
            let _ = to_server.write_all(sent).await;
            return;
        }
        if to_server.write_all(sent).await.is_err() {
            return;
        }
    }
    replies.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_whose_reply_was_lost_is_one() {
    let mut shop = shop().await;
    shop.exec("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 100)")
        .await;
    let port: i32 = shop.value("SELECT inet_server_port()").await;
    let server = SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()));
    let proxy = start_proxy(server).await;
    let old = format!(":{port}/");
    assert!(shop.dsn.contains(&old), "{}", shop.dsn);
    shop.dsn = shop.dsn.replace(&old, &format!(":{}/", proxy.port()));
    let arguments = shop.arguments("t", &["--alter", "ALTER COLUMN id TYPE bigint"]);
    let output = harness::Background::start(arguments).finish(SOON).await.expect_code(0);
    assert_eq!(output.json()["cutover"]["attempts"], 1, "{output}");
    let ty: String = shop
        .value("SELECT atttypid::regtype::text FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'id'")
        .await;
    assert_eq!(ty, "bigint");
    assert_eq!(shop.held_back().await, [""; 0]);
}
