/*
 * The pin protocol (common/shm/reader.h, docs/shared_memory.md) for Spin: two readers, either of
 * which may die at any moment, against a daemon that commits, overwrites, evicts and reuses without
 * end. tests/model/run.sh searches all states, on two machines (store_buffers.pml):
 *
 *   TSO            Each process has a FIFO buffer of stores, which reach memory one by one at any
 *                  later time; its own loads look there first. After a seq_cst store (an xchg) the
 *                  process waits until its buffer is empty. This is x86.
 *   WEAK (-DWEAK)  Plain stores also pass earlier stores to other words. A release store passes
 *                  none, but later plain ones pass it. A seq_cst store is a release store for which
 *                  the seq_cst loads of its process wait, and nothing else. These are the stores of
 *                  ARM: str and stlr, with ldar as the seq_cst load.
 *
 * What must hold
 *   - Who holds a pin sees only fields and bytes that were committed in the record and generation
 *     that its slot names; hence comparing keys with plain loads is right. Else: wrong_read.
 *   - Neither a dead reader nor one that holds no pin keeps the daemon from reusing a record. The
 *     daemon may close at any moment, and then waits until nothing is in limbo. If that can never
 *     come, the search ends in an invalid end state.
 *   - Every statement is reached (run.sh looks), and no store buffer overflows (Store).
 *
 * What is left out, and why it may be
 *   - Keys. Each incarnation (a record in one of its generations) stands for a key of its own. All
 *     fields of a record are one word, and all bytes of its block another one: they hold the
 *     incarnation that they were written for, and the fields also the block. The many words of a
 *     real record are each written and read as these two are.
 *   - Buckets. ENTRY(r) is 1 while some entry names record r, and a reader takes any that it meets,
 *     as if all keys had the same tag. An overwrite is a commit, then the retirement of the old
 *     record; what is one store to the entry is two here, between which a reader meets both.
 *   - Large generations. They count modulo 4, so that the search ends although the daemon does not.
 *     A reader that was away for long may find "its" generation again: it then holds the record as
 *     it is now, which its slot names as well. In reality its re-check fails, and so it may here: a
 *     re-check may always fail. run.sh repeats the search with one reader and modulo 8.
 *   - Slots that name another generation of the record: the real scan spares it for them too, this
 *     one does not.
 *   - Time until reuse. What is freed is overwritten in memory at once, as if by an infinitely fast
 *     next owner, so that a wrong free is a wrong read before the generations have come round.
 *   - Loads out of order. Each load of the protocol is an acquire load, or is kept between one (the
 *     re-check) and a release store (the unpin). Weakening these two is not among the mutants.
 *   - The daemon's threads: its locks order what they do to a record. And a client's further slots:
 *     the scan reads each for itself.
 *   Not asked at all: whether a miss is one (the version of a bucket), pages that come later or are
 *   taken from a living client, bytes that a client writes, machines whose stores do not reach all
 *   others at once (POWER), what a compiler makes of the source.
 *
 * Mutants (-DMUTANT=name), which the search must catch on both machines unless it says otherwise
 *   RELAXED_SLOT_STORE  The pin waits in the reader's buffer while the re-check is already done;
 *                       the scan misses it.
 *   NO_RECHECK          The scan may have been between the first look and the slot store.
 *   REUSE_BEFORE_SCAN   Only the block waits. The record gets another key and another block while a
 *                       reader looks at its fields.
 *   RELAXED_RETIRE      The odd generation waits in the daemon's buffer while the scan is already
 *                       done; the re-check misses it.
 *   LATE_IN_USE         slots_in_use is raised only when the pin stands; the scan stops before it.
 *   KEEP_DEAD_PAGE      A dead client's page is not detached; its pin stays for ever.
 *   RELAXED_PUBLISH     The even generation overtakes fields and bytes. Only WEAK: a FIFO buffer
 *                       keeps them in order.
 *   ACQUIRE_RECHECK     The re-check does not wait for the slot store. Only WEAK: on TSO everything
 *                       waits for it.
 *
 * `tests/model/run.sh --story MUTANT` tells how one of them goes wrong.
 */

#define NONE 0 /* the protocol itself */
#define RELAXED_SLOT_STORE 1
#define NO_RECHECK 2
#define REUSE_BEFORE_SCAN 3
#define RELAXED_RETIRE 4
#define LATE_IN_USE 5
#define KEEP_DEAD_PAGE 6
#define RELAXED_PUBLISH 7
#define ACQUIRE_RECHECK 8
#ifndef MUTANT
#define MUTANT NONE
#endif

/* --- Memory --- */

#define READERS 2
#define RECORDS 2
#if MUTANT == REUSE_BEFORE_SCAN
#define BLOCKS 3 /* the last is for the record whose own one waits */
#define SPARE 2
#define ANY(of) (of(0) || of(1) || of(2))
#else
#define BLOCKS 2 /* block r belongs to record r */
#define ANY(of) (of(0) || of(1))
#endif

/* The words, by their place in memory[]. */
#define GENERATION(r) (r)
#define FIELDS(r) (RECORDS + (r))
#define BYTES(b) (2 * RECORDS + (b))
#define ENTRY(r) (2 * RECORDS + BLOCKS + (r))
#define SLOT(c) (3 * RECORDS + BLOCKS + (c))
#define IN_USE(c) (3 * RECORDS + BLOCKS + READERS + (c))
#define WORDS (3 * RECORDS + BLOCKS + 2 * READERS)

#ifndef GENERATIONS
#define GENERATIONS 4
#endif
#define NEXT(g) (((g) + 1) % GENERATIONS)
#define VISIBLE(g) ((g) % 2 == 0)

/* What a slot and the bytes of a block hold. 0 is none, in fields too. */
#define INCARNATION(r, g) (1 + (r) * GENERATIONS + (g))
#define MAKE_FIELDS(incarnation, b) ((incarnation) * BLOCKS + (b))
#define INCARNATION_IN(fields) ((fields) / BLOCKS)
#define BLOCK_IN(fields) ((fields) % BLOCKS)

byte memory[WORDS];

#define PROCESSES (READERS + 1)
#define DAEMON READERS /* its process number; the readers are 0 and 1 */

#include "store_buffers.pml"

/* --- Readers --- */

bool dead[READERS];
bool wrong_read;

mtype = { START, SEARCH, LOOK, RECHECK, PINNED };

#if MUTANT == ACQUIRE_RECHECK
#define MAY_RECHECK(p) MAY_GO(p)
#else
#define MAY_RECHECK(p) MAY_LOAD_SEQ_CST(p)
#endif

inline BackToSearch() {
  r = 0;
  g = 0;
  step = SEARCH
}

inline Unpin() {
  printf("reader %d: slot := 0\n", self);
  Store(self, SLOT(self), 0, RELEASE);
  BackToSearch()
}

inline MustBe(found, expected) {
  wrong_read = (found != expected);
  if
  :: wrong_read -> printf("reader %d: reads %d, not %d\n", self, found, expected)
  :: else
  fi;
  assert(!wrong_read)
}

proctype Reader(byte self) {
  mtype step = START;
  byte r, g;
  do
  :: atomic {
      step == START && MAY_GO(self) ->
#if MUTANT != LATE_IN_USE
      Store(self, IN_USE(self), 1, SEQ_CST);
#endif
      BackToSearch()
    }
  :: atomic {
      step == SEARCH && MAY_GO(self) ->
      if
      :: r = 0
      :: r = 1
      fi;
      Load(self, ENTRY(r), value);
      if
      :: value -> step = LOOK
      :: else -> BackToSearch()
      fi
    }
  :: atomic {
      step == LOOK && MAY_GO(self) ->
      Load(self, GENERATION(r), g);
      if
      :: VISIBLE(g) ->
          printf("reader %d: slot := record %d, generation %d\n", self, r, g);
#if MUTANT == RELAXED_SLOT_STORE
          Store(self, SLOT(self), INCARNATION(r, g), PLAIN);
#else
          Store(self, SLOT(self), INCARNATION(r, g), SEQ_CST);
#endif
          step = RECHECK
      :: else -> BackToSearch()
      fi
    }
#if MUTANT == NO_RECHECK
  :: atomic {
      step == RECHECK ->
      printf("reader %d: takes it for pinned\n", self);
      step = PINNED
    }
#else
  :: atomic {
      step == RECHECK && MAY_RECHECK(self) ->
      Load(self, GENERATION(r), value);
      if
      :: value == g ->
#if MUTANT == LATE_IN_USE
          Store(self, IN_USE(self), 1, SEQ_CST);
#endif
          printf("reader %d: pinned\n", self);
          step = PINNED
      :: else -> Unpin()
      fi
    }
#endif
  /* The generations differ, but not modulo GENERATIONS. */
  :: atomic { step == RECHECK && MAY_RECHECK(self) -> Unpin() }
  /* As often as it likes. Two loads in one step: had that of the fields been earlier, it would have
     been right, and said the same. */
  :: atomic {
      step == PINNED && MAY_GO(self) ->
      Load(self, FIELDS(r), value);
      MustBe(INCARNATION_IN(value), INCARNATION(r, g));
      Load(self, BYTES(BLOCK_IN(value)), value);
      MustBe(value, INCARNATION(r, g))
    }
  /* It is not the key sought, or has expired, or the reader is done with it. */
  :: atomic { step == PINNED && MAY_GO(self) -> Unpin() }
  /* Ends, its slot free. */
  :: step == SEARCH && buffer[self].length == 0 -> break
  /* Dies. Whoever dies with stores in the buffer might as well pause until they have left it. */
  :: atomic {
      buffer[self].length == 0 ->
      printf("reader %d: dies\n", self);
      dead[self] = true;
      break
    }
  od;
  atomic { BackToSearch() }
}

/* --- The daemon --- */

/* Private to it. */
byte generation[RECORDS];
byte waiting[BLOCKS]; /* limbo: the incarnation that the block waits for, or 0 */
bool detached[READERS];

#define WAITS(b) (waiting[b] != 0)
#define LIVE(r) VISIBLE(generation[r])

#if MUTANT == REUSE_BEFORE_SCAN
byte block_of[RECORDS];
#define BLOCK_OF(r) block_of[r]
#define HAS_BLOCK(r, b) (LIVE(r) && block_of[r] == (b))
#define BLOCK_FREE(b) (!WAITS(b) && !HAS_BLOCK(0, b) && !HAS_BLOCK(1, b))
#define RECORD_FREE(r) (!LIVE(r) && (BLOCK_FREE(r) || BLOCK_FREE(SPARE)))
#else
#define BLOCK_OF(r) (r)
#define RECORD_FREE(r) (!LIVE(r) && !WAITS(r))
#endif

/* Fills a free record and its block, makes it visible and links it. Where the daemon links first, a
   reader comes upon an odd generation, which an old entry leads to as well. */
inline Commit(r) {
  atomic {
    RECORD_FREE(r) && MAY_GO(DAEMON) ->
#if MUTANT == REUSE_BEFORE_SCAN
    if
    :: BLOCK_FREE(r) -> block_of[r] = r
    :: else -> block_of[r] = SPARE
    fi;
#endif
    generation[r] = NEXT(generation[r]);
    printf("daemon: commits record %d, generation %d, block %d\n", r, generation[r], BLOCK_OF(r));
    Store(DAEMON, BYTES(BLOCK_OF(r)), INCARNATION(r, generation[r]), PLAIN);
    Store(DAEMON, FIELDS(r), MAKE_FIELDS(INCARNATION(r, generation[r]), BLOCK_OF(r)), PLAIN);
#if MUTANT == RELAXED_PUBLISH
    Store(DAEMON, GENERATION(r), generation[r], PLAIN);
#else
    Store(DAEMON, GENERATION(r), generation[r], RELEASE);
#endif
    Store(DAEMON, ENTRY(r), 1, RELEASE)
  }
}

/* Evicts a record, or takes away the one that an overwrite has replaced. */
inline Retire(r) {
  atomic {
    LIVE(r) && MAY_GO(DAEMON) ->
    printf("daemon: retires record %d, generation %d\n", r, generation[r]);
    waiting[BLOCK_OF(r)] = INCARNATION(r, generation[r]);
    generation[r] = NEXT(generation[r]);
    Store(DAEMON, ENTRY(r), 0, RELEASE);
#if MUTANT == RELAXED_RETIRE
    Store(DAEMON, GENERATION(r), generation[r], PLAIN)
#else
    Store(DAEMON, GENERATION(r), generation[r], SEQ_CST)
#endif
  }
}

/* The two loads of a scan from each page. */
inline LoadInUse(c) {
  if
  :: detached[c]
  :: else -> Load(DAEMON, IN_USE(c), in_use)
  fi
}
inline LoadSlot(c) {
  if
  :: !in_use
  :: else ->
      Load(DAEMON, SLOT(c), value);
      printf("daemon: reads %d in the slot of reader %d\n", value, c);
      for (b : 0 .. BLOCKS - 1) {
        named[b] = named[b] || (WAITS(b) && waiting[b] == value)
      }
      b = 0
  fi;
  in_use = false
}

/* What the scan has not met leaves limbo. */
inline FreeUnlessNamed() {
  for (b : 0 .. BLOCKS - 1) {
    if
    :: !WAITS(b)
    :: WAITS(b) && named[b] -> named[b] = false
    :: WAITS(b) && !named[b] ->
        printf("daemon: frees block %d\n", b);
        waiting[b] = 0;
#if MUTANT != REUSE_BEFORE_SCAN
        memory[FIELDS(b)] = 0;
#endif
        memory[BYTES(b)] = 0
    fi
  }
  b = 0
}

/* From now on nobody reads the page. It is cleared only to have fewer states. */
inline Detach(c) {
  atomic {
    dead[c] && !detached[c] && MUTANT != KEEP_DEAD_PAGE ->
    detached[c] = true;
    memory[SLOT(c)] = 0;
    memory[IN_USE(c)] = 0
  }
}

#define NAMES(c, incarnation) (!detached[c] && memory[SLOT(c)] == (incarnation))
#define HELD(b) (WAITS(b) && (NAMES(0, waiting[b]) || NAMES(1, waiting[b])))

proctype Daemon() {
  bool named[BLOCKS]; /* of those that wait, what the scan has met so far */
  bool in_use;
  byte b;
  do
  :: Commit(0)
  :: Commit(1)
  :: Retire(0)
  :: Retire(1)
  /* A scan: seq_cst loads. It stores nothing, so they need not wait once more. */
  :: atomic { ANY(WAITS) && MAY_LOAD_SEQ_CST(DAEMON) -> LoadInUse(0) };
     atomic { LoadSlot(0) };
     atomic { LoadInUse(1) };
     atomic { LoadSlot(1); FreeUnlessNamed() }
  :: Detach(0)
  :: Detach(1)
  :: !LIVE(0) && !LIVE(1) -> break
  od;
  /* Closes. Not by scans without end, in which the search would see no end either, but by waiting
     for the moment when one would free all that is left. */
  do
  :: Detach(0)
  :: Detach(1)
  :: MAY_LOAD_SEQ_CST(DAEMON) && !ANY(HELD) -> break
  od
}

init {
  atomic {
    memory[GENERATION(0)] = 1;
    memory[GENERATION(1)] = 1;
    generation[0] = 1;
    generation[1] = 1;
    run StoreBufferOf(0);
    run StoreBufferOf(1);
    run StoreBufferOf(DAEMON);
    run Reader(0);
#ifndef ALONE
    run Reader(1);
#endif
    run Daemon()
  }
}
