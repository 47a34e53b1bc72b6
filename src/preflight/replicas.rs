//! Each `--replica` is a standby of this server, and answers. What is none would hold the copy up for ever, or
//! tell of another server's log.

use super::{Finding, Result, Subject};
use crate::throttle::replica::{Place, System, name};

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    if subject.replicas.is_empty() {
        return Ok(vec![]);
    }
    let primary = System::of(subject.session).await?;
    let mut found = Vec::new();
    for dsn in subject.replicas {
        if let Err(e) = look(dsn, primary).await {
            found.push(Finding::refuse(
                format!("replica {} cannot be measured: {}", name(dsn), e.what()),
                "Name a standby of this server in --replica, by its own host and port; its password comes from the \
                 password file (~/.pgpass), a service file or PGPASSWORD. Or leave it out",
            ));
        }
    }
    Ok(found)
}

async fn look(dsn: &str, primary: Option<System>) -> Result<()> {
    Place::of(dsn)?.open("preflight", primary).await?.replayed().await.map(drop)
}
