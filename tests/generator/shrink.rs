//! Makes a failing script small.

/// The shortest script found, by dropping statements, that still `fails`; at most so many are tried.
/// Larger pieces go first, the last ones first, since nothing before them needs them.
pub async fn shrunk(
    script: &[String],
    mut tries: usize,
    mut fails: impl AsyncFnMut(&[String]) -> bool,
) -> Vec<String> {
    let mut small = script.to_vec();
    let mut piece = small.len().div_ceil(2).max(1);
    loop {
        let mut dropped = false;
        let mut end = small.len();
        while end > 0 {
            let start = end.saturating_sub(piece);
            let mut less = small.clone();
            less.drain(start..end);
            if tries == 0 {
                return small;
            }
            tries -= 1;
            if fails(&less).await {
                small = less;
                dropped = true;
            }
            end = start;
        }
        // Once more where something went: what needed it may go now.
        if piece == 1 && !dropped {
            return small;
        }
        if piece > 1 {
            piece = piece.div_ceil(2);
        }
    }
}

#[tokio::test]
async fn only_what_is_needed_is_left() {
    let script: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    let mut tried = 0;
    let small = shrunk(&script, 1000, async |less| {
        tried += 1;
        // 30 needs 7; both it takes, and 12.
        let has = |n: &str| less.iter().any(|s| s == n);
        has("7") && has("30") && has("12")
    })
    .await;
    assert_eq!(small, ["7", "12", "30"]);
    assert!(tried < 120, "{tried}");
    let small = shrunk(&script, 3, async |less| less.len() > 1).await;
    assert!(small.len() > 1, "it stops when it may try no more");
    assert_eq!(shrunk(&script, 1000, async |_| true).await, [""; 0]);
}
