//! What moves rows between partitions while a run lasts.

use std::time::Duration;

use super::TABLE;
use crate::scene::Shop;

/// Rows of the mover's own.
const MOVED: i64 = 5_000;
/// Leaves processors to the server.
const EVERY: Duration = Duration::from_millis(4);

/// A session that moves rows of its own to other times, states and keys.
pub struct Mover {
    stop: tokio::sync::oneshot::Sender<()>,
    moved: tokio::task::JoinHandle<u64>,
}

impl Mover {
    pub async fn start(shop: &Shop) -> Mover {
        // Their keys come before all others, so that they are copied at once.
        shop.exec(&format!(
            "INSERT INTO {TABLE} (id, customer_id, status, amount, created_at) OVERRIDING SYSTEM VALUE \
             SELECT -n, n, 'new', n, timestamptz '2024-01-15' + n * interval '50 minutes' FROM generate_series(1, {MOVED}) n"
        ))
        .await;
        let client = shop.session().await;
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let moved = tokio::spawn(async move {
            let (mut moved, mut tick) = (0, tokio::time::interval(EVERY));
            for n in 0i64.. {
                tick.tick().await;
                if stopped.try_recv().is_ok() {
                    break;
                }
                let row = format!("id = {}", -(n * 7919 % MOVED) - 1);
                let set = match n % 4 {
                    0 => "created_at = created_at + interval '61 days'",
                    1 => "created_at = created_at - interval '35 days', status = 'moved'",
                    2 => "id = id - 1000000, created_at = created_at + interval '40 days'",
                    _ => "status = CASE status WHEN 'new' THEN 'paid' ELSE 'new' END",
                };
                let sql = format!("UPDATE {TABLE} SET {set} WHERE {row}");
                moved += client.execute(&sql, &[]).await.unwrap();
            }
            moved
        });
        Mover { stop, moved }
    }

    pub async fn stop(self) -> u64 {
        let _ = self.stop.send(());
        self.moved.await.unwrap()
    }
}
