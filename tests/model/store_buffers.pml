/*
 * A machine with a store buffer for each process, as pin_protocol.pml describes it: TSO, or with
 * -DWEAK one whose plain stores pass others. Needs memory[] and PROCESSES, and a StoreBufferOf
 * running for each process.
 *
 * A step of a process is atomic. It begins with MAY_GO, or with MAY_LOAD_SEQ_CST if its load is
 * seq_cst, and does one load and what follows from it, stores included: when a store enters the
 * buffer is of no account, since others see it when it leaves.
 */

/* Scratch of a single step, and thus no part of the state. */
hidden byte value, i;

#define PLAIN 0
#define RELEASE 1
#define SEQ_CST 2

#define ROOM 12
typedef StoreBuffer {
  byte length;
  byte word[ROOM];  /* oldest first */
  byte value[ROOM];
  byte order[ROOM]
};
StoreBuffer buffer[PROCESSES];
byte seq_cst_stores[PROCESSES]; /* of the buffer */

/* Only mutants can fill a buffer. They wait until there is room for the stores of any step. */
#if MUTANT
#define HAS_ROOM(p) (buffer[p].length + 4 <= ROOM)
#else
#define HAS_ROOM(p) true
#endif

/* Whether a step may begin that starts with a seq_cst load, or with anything else. */
#define MAY_LOAD_SEQ_CST(p) (HAS_ROOM(p) && seq_cst_stores[p] == 0)
#ifdef WEAK
#define MAY_GO(p) HAS_ROOM(p)
#else
#define MAY_GO(p) MAY_LOAD_SEQ_CST(p)
#endif

inline Store(p, to, what, how) {
  d_step {
    assert(buffer[p].length < ROOM);
    i = buffer[p].length;
    buffer[p].word[i] = to;
    buffer[p].value[i] = what;
    buffer[p].order[i] = how;
    buffer[p].length++;
    seq_cst_stores[p] = seq_cst_stores[p] + (how == SEQ_CST)
  }
}

/* What the youngest of its own stores to the word says, else memory. */
inline Load(p, from, into) {
  d_step {
    i = buffer[p].length;
    do
    :: i > 0 && buffer[p].word[i - 1] != from -> i--
    :: else -> break
    od;
    if
    :: i > 0 -> into = buffer[p].value[i - 1]
    :: else -> into = memory[from]
    fi;
    i = 0
  }
}

/* Whether store `n` of the buffer may reach memory before all older ones. */
inline MayPass(p, n, answer) {
  d_step {
    answer = (buffer[p].order[n] == PLAIN);
    i = 0;
    do
    :: i < n -> answer = answer && buffer[p].word[i] != buffer[p].word[n]; i++
    :: else -> break
    od;
    i = 0
  }
}

inline Drain(p, n) {
  d_step {
    printf("(memory[%d] := %d, by process %d)\n", buffer[p].word[n], buffer[p].value[n], p);
    memory[buffer[p].word[n]] = buffer[p].value[n];
    seq_cst_stores[p] = seq_cst_stores[p] - (buffer[p].order[n] == SEQ_CST);
    buffer[p].length--;
    i = n;
    do
    :: i < buffer[p].length ->
        buffer[p].word[i] = buffer[p].word[i + 1];
        buffer[p].value[i] = buffer[p].value[i + 1];
        buffer[p].order[i] = buffer[p].order[i + 1];
        i++
    :: else -> break
    od;
    buffer[p].word[i] = 0;
    buffer[p].value[i] = 0;
    buffer[p].order[i] = 0;
    i = 0
  }
}

/* Empties the buffer of process `p`, one store a step. */
proctype StoreBufferOf(byte p) {
  byte n;
  bool may;
end:
  do
  :: atomic {
      buffer[p].length > 0;
#ifdef WEAK
      n = buffer[p].length - 1;
      do
      :: n == 0 -> break
      :: n > 0 ->
          MayPass(p, n, may);
          if
          :: may -> break
          :: true -> n--
          fi
      od;
#endif
      Drain(p, n);
      n = 0;
      may = false
    }
  od
}
