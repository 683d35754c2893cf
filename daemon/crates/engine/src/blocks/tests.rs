//! The books of the KV cache: what is found, what gives way, and that no block is ever lost or written while shared.
use super::*;

fn text(n: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| n * 1000 + i).collect()
}

/// Runs a text through the cache, as a request would, and returns what was found of it.
fn run(blocks: &mut Blocks, owner: u32, tokens: &[u32]) -> usize {
    let mut table = BlockTable::default();
    let (known, _) = blocks.adopt(&mut table, owner, &tokens[..tokens.len() - 1]);
    blocks.reserve(&mut table, tokens.len()).unwrap();
    blocks.keep(&mut table, owner, tokens);
    known
}

/// Free, held and kept blocks are all there are, and the counts are right.
fn check(blocks: &Blocks) {
    let held = blocks.blocks.iter().filter(|b| b.holders > 0).count();
    let kept = blocks.blocks.iter().filter(|b| b.is_kept()).count();
    assert_eq!(held + kept + blocks.free.len(), blocks.count());
    assert_eq!(kept, blocks.kept);
    let full = blocks.blocks.iter().filter(|b| b.len == KV_BLOCK).count();
    assert_eq!(blocks.index.len(), full);
}

#[test]
fn blocks_that_were_used_come_before_those_that_never_were() {
    let mut blocks = Blocks::new(64);
    assert_eq!(blocks.reached(), 0);
    let mut table = BlockTable::default();
    for _ in 0..3 {
        blocks.reserve(&mut table, 5 * KV_BLOCK).unwrap();
        assert_eq!(blocks.reached(), 5);
        blocks.release(&mut table);
    }
    blocks.reserve(&mut table, 9 * KV_BLOCK).unwrap();
    assert_eq!(blocks.reached(), 9);
}

#[test]
fn what_was_computed_is_found_to_the_token() {
    let mut blocks = Blocks::new(64);
    let long = text(1, 100);
    assert_eq!(run(&mut blocks, 7, &long), 0);
    assert_eq!(
        run(&mut blocks, 7, &long),
        99,
        "the last one is computed for its logits"
    );
    let mut longer = long.clone();
    longer.extend(text(2, 50));
    assert_eq!(run(&mut blocks, 7, &longer), 100);
    let mut other = long[..70].to_vec();
    other.extend(text(3, 50));
    assert_eq!(
        run(&mut blocks, 7, &other),
        70,
        "a full block serves for its beginning too"
    );
    assert_eq!(run(&mut blocks, 7, &text(4, 40)), 0);
    assert_eq!(
        run(&mut blocks, 7, &long[1..]),
        0,
        "the same tokens elsewhere are other content"
    );
    check(&blocks);
    assert_eq!(blocks.available(), 64);
}

#[test]
fn another_owner_finds_nothing() {
    let mut blocks = Blocks::new(64);
    let secret = text(1, 90);
    run(&mut blocks, 7, &secret);
    let mut table = BlockTable::default();
    assert_eq!(blocks.adopt(&mut table, 8, &secret), (0, None));
    blocks.release(&mut table);
    assert_eq!(run(&mut blocks, 8, &secret), 0);
    assert_eq!(run(&mut blocks, 7, &secret), 89);
    check(&blocks);
}

#[test]
fn running_sequences_share_full_blocks_and_copy_the_one_they_write() {
    let mut blocks = Blocks::new(8);
    let tokens = text(1, 80);
    let (mut a, mut b) = (BlockTable::default(), BlockTable::default());
    blocks.reserve(&mut a, 96).unwrap();
    blocks.publish(&mut a, 7, &tokens[..70]);
    let (known, copy) = blocks.adopt(&mut b, 7, &tokens);
    assert_eq!(
        (known, copy),
        (64, None),
        "what another still writes is not shared"
    );
    assert_eq!(b.blocks(), &a.blocks()[..2]);
    assert_eq!(blocks.count() - blocks.available(), 3);
    blocks.release(&mut b);
    blocks.keep(&mut a, 7, &tokens);
    let (known, copy) = blocks.adopt(&mut b, 7, &tokens[..75]);
    let copy = copy.unwrap();
    assert_eq!((known, copy.slots), (75, 11));
    assert!(copy.from != copy.to && b.blocks()[2] == copy.to);
    blocks.release(&mut b);
    check(&blocks);
}

#[test]
fn the_oldest_gives_way_ends_before_beginnings_and_never_what_is_held() {
    let mut blocks = Blocks::new(6);
    let (old, new) = (text(1, 96), text(2, 64));
    run(&mut blocks, 7, &old);
    run(&mut blocks, 7, &new);
    let mut table = BlockTable::default();
    blocks.reserve(&mut table, 64).unwrap();
    assert_eq!(blocks.kept(), 4, "one was free, one gave way");
    let mut again = BlockTable::default();
    assert_eq!(blocks.adopt(&mut again, 7, &old).0, 64);
    assert_eq!(
        blocks.reserve(&mut table, 32 * 5),
        Err(OutOfBlocks { wanted: 3, free: 2 })
    );
    blocks.reserve(&mut table, 32 * 4).unwrap();
    assert_eq!((blocks.available(), blocks.kept()), (0, 0));
    blocks.release(&mut again);
    blocks.release(&mut table);
    check(&blocks);
    assert_eq!(run(&mut blocks, 7, &new), 0);
}

#[test]
fn use_makes_young_again() {
    let mut blocks = Blocks::new(4);
    let (a, b) = (text(1, 64), text(2, 64));
    run(&mut blocks, 7, &a);
    run(&mut blocks, 7, &b);
    // Takes a copy of the last block to write to, for which the end of `b` gives way.
    assert_eq!(run(&mut blocks, 7, &a), 63);
    assert_eq!(run(&mut blocks, 7, &a), 63);
    check(&blocks);
}

#[test]
fn the_same_text_is_kept_once() {
    let mut blocks = Blocks::new(64);
    let tokens = text(1, 80);
    let mut tables = [const { None }; 4].map(|_: Option<()>| BlockTable::default());
    for table in &mut tables {
        blocks.reserve(table, tokens.len()).unwrap();
    }
    for table in &mut tables {
        blocks.publish(table, 7, &tokens);
    }
    for table in &mut tables {
        blocks.keep(table, 7, &tokens);
    }
    assert_eq!(blocks.kept(), 3);
    for len in 81..=90 {
        run(&mut blocks, 7, &text(1, len));
    }
    assert_eq!(blocks.kept(), 3, "a longer end takes the place of a shorter one");
    check(&blocks);
}

#[test]
fn what_cannot_be_trusted_is_never_found() {
    let mut blocks = Blocks::new(64);
    let tokens = text(1, 100);
    let mut table = BlockTable::default();
    blocks.reserve(&mut table, 100).unwrap();
    blocks.publish(&mut table, 7, &tokens);
    blocks.discard(&mut table);
    assert_eq!(blocks.kept(), 0);
    assert_eq!(run(&mut blocks, 7, &tokens), 0);
    blocks.forget_all();
    assert_eq!((blocks.kept(), blocks.free.len()), (0, 64));
    assert_eq!(run(&mut blocks, 7, &tokens), 0);
    check(&blocks);
}

#[test]
fn a_collision_is_a_miss() {
    let mut blocks = Blocks::new(8);
    let (a, b) = (text(1, 32), text(2, 32));
    run(&mut blocks, 7, &a);
    let number = *blocks.index.values().next().unwrap();
    let key = blocks.key(7, Link::Start, &b);
    blocks.index.insert(key, number);
    assert_eq!(blocks.find(7, Link::Start, b.as_array().unwrap()), None);
}

#[test]
fn what_follows_a_forgotten_block_is_not_found_through_another() {
    let mut blocks = Blocks::new(8);
    let tokens = text(1, 64);
    let mut table = BlockTable::default();
    blocks.reserve(&mut table, 64).unwrap();
    blocks.publish(&mut table, 7, &tokens[..32]);
    blocks.forget(table.blocks()[0]);
    blocks.publish(&mut table, 7, &tokens);
    assert_eq!(blocks.index.len(), 0);
    blocks.keep(&mut table, 7, &tokens);
    check(&blocks);
    assert_eq!(run(&mut blocks, 7, &tokens), 0);
}

/// Many sequences come, grow, fail and go at random; the books stay right and what is found is what was computed.
#[test]
fn the_books_balance_whatever_happens() {
    let mut blocks = Blocks::new(24);
    let mut state = 12345u64;
    let mut random = |below: u64| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) % below
    };
    // What was written to each block's slots: the real content.
    let mut written = vec![[u32::MAX; KV_BLOCK]; 24];
    let mut open: Vec<(BlockTable, u32, Vec<u32>, usize)> = Vec::new();
    for _ in 0..20_000 {
        match random(6) {
            0 if open.len() < 5 => {
                let owner = random(2) as u32;
                let mut tokens = text(owner, (random(150) + 1) as usize);
                let at = random(tokens.len() as u64) as usize;
                tokens[at..].iter_mut().for_each(|t| *t += random(2) as u32);
                let mut table = BlockTable::default();
                let (known, copy) = blocks.adopt(&mut table, owner, &tokens);
                if let Some(copy) = copy {
                    let from = written[copy.from as usize];
                    written[copy.to as usize][..copy.slots].copy_from_slice(&from[..copy.slots]);
                }
                for (position, token) in tokens[..known].iter().enumerate() {
                    let block = table.blocks()[position / KV_BLOCK] as usize;
                    assert_eq!(written[block][position % KV_BLOCK], *token);
                }
                open.push((table, owner, tokens, known));
            }
            1 | 2 if !open.is_empty() => {
                let at = random(open.len() as u64) as usize;
                let (table, owner, tokens, known) = &mut open[at];
                let end = tokens.len().min(*known + random(40) as usize);
                if blocks.reserve(table, end).is_ok() {
                    for position in *known..end {
                        let block = table.blocks()[position / KV_BLOCK];
                        assert_eq!(blocks.blocks[block as usize].holders, 1, "written while shared");
                        written[block as usize][position % KV_BLOCK] = tokens[position];
                    }
                    *known = (*known).max(end);
                    blocks.publish(table, *owner, &tokens[..*known]);
                }
            }
            3 if !open.is_empty() => {
                let at = random(open.len() as u64) as usize;
                let (mut table, owner, tokens, known) = open.swap_remove(at);
                match random(4) {
                    0 => blocks.discard(&mut table),
                    1 => blocks.release(&mut table),
                    _ => blocks.keep(&mut table, owner, &tokens[..known]),
                }
            }
            _ => {}
        }
        check(&blocks);
    }
    for (mut table, owner, tokens, known) in open {
        blocks.keep(&mut table, owner, &tokens[..known]);
    }
    assert_eq!(blocks.available(), 24);
}
