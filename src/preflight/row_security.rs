//! Row security must not be forced on the owner: a session that it applies to would read fewer rows
//! than there are.

use super::{Finding, Result, Subject};

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let table = subject.table;
    if !table.force_row_security {
        return Ok(vec![]);
    }
    let name = table.qualified();
    Ok(vec![Finding::refuse(
        format!("row security of {name} is forced on its owner, as whom the rows are read"),
        format!(
            "ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY, if the owner may see every row meanwhile, \
             and FORCE it again afterwards"
        ),
    )])
}
