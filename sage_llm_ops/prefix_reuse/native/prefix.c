/* The compiled prefix tree: blocks of tokens, who holds them, least recently used order.
 *
 * Plain C99 without Python's headers, called through ctypes: one source for every Python. tree.py is
 * the same thing in Python and the reference that tests compare it with.
 *
 * A block is a slot, a row of parallel arrays. A prompt's new blocks get neighbouring slots, so a walk
 * first looks whether the next slot is the child it wants: then it compares tokens and hashes nothing.
 * Only where paths part is a key computed, from the parent's. Children are found in one open-addressing
 * table; equal keys are told apart by parent and tokens, so a collision costs a comparison and never an
 * answer. Sets of holders are interned: along a path they rarely change, and a walk does something only
 * where they do.
 *
 * Slot 0 is the root of all. Below it stand virtual slots, one a salt, whose "tokens" are the salt's
 * digest; they are no blocks and belong to nobody.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t u64;
typedef uint32_t u32;
typedef int32_t i32;

#define NIL 0xFFFFFFFFu
#define FULL 0xFFFFFFFEu /* returned where memory is short; nothing has changed then */
#define PLANES 4 /* tiers 0 to 2 as engines report them, and what is only expected */
#define TIERS 3
#define MASKS 8 /* in one lookup, at most */
#define AHEAD 16 /* new blocks whose keys are made together */
#define VIRTUAL 0x80000000u /* in kids: a salt, no block */
#define KIDS 0x7FFFFFFFu
#define FOLLOWED 0x80000000u /* in what a lookup returns: something follows the last block */

typedef struct { /* engine's hash -> slot, of one holder in one plane */
    u64 *hash;
    u32 *slot; /* 0: empty */
    u32 *born, *count;
    u32 mask, used;
} Map;

typedef struct { /* one holder in one plane */
    Map map;
    u32 *list; /* slots that were inserted without an engine's hash; some may be stale */
    u32 listed, room;
    u32 held; /* bits that are set */
    u32 direct; /* of them, by insert */
} Holder;

typedef struct {
    i32 bs, width; /* tokens a block, bytes a block; 0: keys only */
    u32 remember;
    u64 key_mask;
    /* slots */
    u32 cap, top, free_head, blocks, roots;
    u64 *key;
    u32 *parent, *kids, *set, *prev, *next, *born;
    char *tok;
    u32 *table;
    u64 tmask;
    /* sets */
    u32 words, stride, set_cap, set_top, set_free, sets;
    u32 *set_refs, *set_link;
    u64 *set_bits, *scratch, *live;
    u32 *set_table;
    u32 set_tmask;
    /* holders */
    u32 holders;
    Holder *holder; /* holder * PLANES + plane */
    u64 conflicts, evicted;
} Tree;

/* -- keys ------------------------------------------------------------------------------------- */

static const u64 C0 = 0xa0761d6478bd642fULL, C1 = 0xe7037ed1a0b428dbULL, C2 = 0x8ebc6af09c88c6e3ULL;

static inline u64 mum(u64 a, u64 b) {
    __uint128_t r = (__uint128_t)a * b;
    return (u64)r ^ (u64)(r >> 64);
}

static inline u64 chain(u64 parent, const char *tok, i32 width) {
    u64 h = parent ^ C0;
    i32 at = 0;
    for (; at + 16 <= width; at += 16) {
        u64 w[2];
        memcpy(w, tok + at, 16);
        h = mum(h ^ w[0] ^ C1, w[1] ^ C2);
    }
    if (at < width) {
        u64 w[2] = {0, 0};
        memcpy(w, tok + at, width - at);
        h = mum(h ^ w[0] ^ C1, w[1] ^ C2);
    }
    return mum(h ^ (u64)width, C0);
}

static inline u64 key_of(const Tree *t, u64 parent, const char *tok, i32 width) {
    return chain(parent, tok, width) & t->key_mask;
}

static inline u64 spread(u64 key) { return mum(key ^ C1, C2); }

static inline int same(const char *a, const char *b, i32 width) {
    i32 at = 0;
    for (; at + 32 <= width; at += 32) {
        u64 x[4], y[4];
        memcpy(x, a + at, 32);
        memcpy(y, b + at, 32);
        if ((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3])) return 0;
    }
    return at == width || memcmp(a + at, b + at, width - at) == 0;
}

/* -- table of children ------------------------------------------------------------------------ */

static void table_put(Tree *t, u32 slot) {
    u64 i = spread(t->key[slot]) & t->tmask;
    while (t->table[i]) i = (i + 1) & t->tmask;
    t->table[i] = slot;
}

static int table_grow(Tree *t) {
    u64 size = (t->tmask + 1) * 2;
    u32 *fresh = calloc(size, sizeof(u32));
    if (!fresh) return 0;
    free(t->table);
    t->table = fresh;
    t->tmask = size - 1;
    for (u32 s = 1; s < t->top; s++)
        if (t->parent[s] != NIL) table_put(t, s);
    return 1;
}

static void table_drop(Tree *t, u32 slot) {
    u64 m = t->tmask, i = spread(t->key[slot]) & m;
    while (t->table[i] != slot) i = (i + 1) & m;
    for (u64 j = i;;) { /* close the gap, so that no probe ends too early */
        t->table[i] = 0;
        for (;;) {
            j = (j + 1) & m;
            if (!t->table[j]) return;
            u64 home = spread(t->key[t->table[j]]) & m;
            if (((j - home) & m) >= ((j - i) & m)) break;
        }
        t->table[i] = t->table[j];
        i = j;
    }
}

/* The child of `parent` with this key and, where tok is given, these tokens; 0: there is none. Blocks are
 * below salts and below blocks, and salts below slot 0 alone: what has such a parent is a block. */
static u32 find(Tree *t, u32 parent, u64 key, const char *tok) {
    u64 i = spread(key) & t->tmask;
    int foreign = 0;
    for (u32 s; (s = t->table[i]); i = (i + 1) & t->tmask) {
        if (t->key[s] != key) continue;
        if (t->parent[s] == parent &&
            (!tok || same(t->tok + (size_t)s * t->width, tok, t->width)))
            return s;
        foreign = 1;
    }
    t->conflicts += foreign;
    return 0;
}

static inline u32 child(Tree *t, u32 s, const char *tok) {
    u32 c = s + 1;
    if (c < t->top && t->parent[c] == s &&
        same(t->tok + (size_t)c * t->width, tok, t->width))
        return c;
    if (!(t->kids[s] & KIDS)) return 0; /* the table is seldom in the cache */
    return find(t, s, key_of(t, t->key[s], tok, t->width), tok);
}

static inline u32 child_by_key(Tree *t, u32 s, u64 key) {
    u32 c = s + 1;
    if (c < t->top && t->parent[c] == s && t->key[c] == key) return c;
    if (!(t->kids[s] & KIDS)) return 0;
    return find(t, s, key, NULL);
}

/* -- sets of holders -------------------------------------------------------------------------- */

static u32 set_hash(const Tree *t, const u64 *bits) {
    u64 h = C2;
    for (u32 i = 0; i < t->stride; i++) h = mum(h ^ bits[i], C1 + i);
    return (u32)(h ^ h >> 32);
}

static void set_index(Tree *t, u32 set) {
    u32 i = set_hash(t, t->set_bits + (size_t)set * t->stride) & t->set_tmask;
    t->set_link[set] = t->set_table[i];
    t->set_table[i] = set;
}

static void sets_rehash(Tree *t, u32 *fresh, u32 size) {
    free(t->set_table);
    t->set_table = fresh;
    t->set_tmask = size - 1;
    memset(fresh, 0xFF, size * sizeof(u32));
    for (u32 s = 1; s < t->set_top; s++)
        if (t->set_refs[s]) set_index(t, s);
}

static int sets_reindex(Tree *t, u32 size) {
    u32 *fresh = malloc(size * sizeof(u32));
    if (!fresh) return 0;
    sets_rehash(t, fresh, size);
    return 1;
}

/* The set whose bits stand in scratch, with one more reference. 0 is the empty one. */
static u32 set_intern(Tree *t) {
    u64 any = 0;
    for (u32 i = 0; i < t->stride; i++) any |= t->scratch[i];
    if (!any) return 0;
    u32 at = set_hash(t, t->scratch) & t->set_tmask;
    for (u32 s = t->set_table[at]; s != NIL; s = t->set_link[s])
        if (!memcmp(t->set_bits + (size_t)s * t->stride, t->scratch, t->stride * 8)) {
            t->set_refs[s]++;
            return s;
        }
    u32 s = t->set_free;
    if (s != NIL) t->set_free = t->set_link[s];
    else s = t->set_top++;
    t->set_refs[s] = 1;
    memcpy(t->set_bits + (size_t)s * t->stride, t->scratch, t->stride * 8);
    t->sets++;
    set_index(t, s);
    return s;
}

/* Room for the sets that come of n blocks which each gain a holder and make another lose it. One that
 * makes many blocks change makes no more sets than there are different ones among them. */
static int room_for_sets(Tree *t, u32 n) {
    u64 more = (n < t->sets ? 2 * (u64)n : 3 * (u64)t->sets) + 4, unused = t->set_top - 1 - t->sets;
    while (more > unused && t->set_top + (more - unused) > t->set_cap) {
        u32 cap = t->set_cap * 2;
        u32 *refs = realloc(t->set_refs, cap * sizeof(u32));
        if (refs) t->set_refs = refs;
        u32 *link = realloc(t->set_link, cap * sizeof(u32));
        if (link) t->set_link = link;
        u64 *bits = realloc(t->set_bits, (size_t)cap * t->stride * 8);
        if (bits) t->set_bits = bits;
        if (!refs || !link || !bits) return 0;
        t->set_cap = cap;
    }
    while (t->sets + more > t->set_tmask)
        if (!sets_reindex(t, (t->set_tmask + 1) * 2)) return 0;
    return 1;
}

static void set_release(Tree *t, u32 s) {
    if (!s || --t->set_refs[s]) return;
    u32 *p = &t->set_table[set_hash(t, t->set_bits + (size_t)s * t->stride) & t->set_tmask];
    while (*p != s) p = &t->set_link[*p];
    *p = t->set_link[s];
    t->set_link[s] = t->set_free;
    t->set_free = s;
    t->sets--;
}

static inline int has_bit(const Tree *t, u32 set, u32 holder, u32 plane) {
    return set && t->set_bits[(size_t)set * t->stride + plane * t->words + (holder >> 6)] >> (holder & 63) & 1;
}

/* Runs of blocks have the same set: what became of the one before becomes of this one, too. */
typedef struct { u32 old, fresh; } Memo;

static void flip(Tree *t, u32 slot, u32 holder, u32 plane, Memo *memo) {
    u32 old = t->set[slot];
    if (memo->fresh != NIL && memo->old == old) {
        t->set[slot] = memo->fresh;
        if (memo->fresh) t->set_refs[memo->fresh]++;
    } else {
        if (old) memcpy(t->scratch, t->set_bits + (size_t)old * t->stride, t->stride * 8);
        else memset(t->scratch, 0, t->stride * 8);
        t->scratch[plane * t->words + (holder >> 6)] ^= 1ULL << (holder & 63);
        u32 fresh = set_intern(t);
        /* The memo holds references of its own, or its numbers might be given away. */
        if (memo->fresh != NIL) { set_release(t, memo->old); set_release(t, memo->fresh); }
        memo->old = old;
        memo->fresh = fresh;
        if (old) t->set_refs[old]++;
        if (fresh) t->set_refs[fresh]++;
        t->set[slot] = fresh;
    }
    set_release(t, old);
}

static void memo_end(Tree *t, Memo *memo) {
    if (memo->fresh == NIL) return;
    set_release(t, memo->old);
    set_release(t, memo->fresh);
    memo->fresh = NIL;
}

/* -- slots ------------------------------------------------------------------------------------ */

static int slots_grow(Tree *t) {
    u32 cap = t->cap + t->cap / 2 + 16;
#define GROW(field, size)                                   \
    do {                                                    \
        void *p = realloc(t->field, (size_t)cap * (size));  \
        if (!p) return 0;                                   \
        t->field = p;                                       \
    } while (0)
    GROW(key, 8);
    GROW(parent, 4);
    GROW(kids, 4);
    GROW(set, 4);
    GROW(prev, 4);
    GROW(next, 4);
    GROW(born, 4);
    if (t->width) GROW(tok, t->width);
    t->cap = cap;
    return 1;
}

static inline void lru_unlink(Tree *t, u32 s) {
    u32 p = t->prev[s], n = t->next[s];
    t->next[p] = n;
    t->prev[n] = p;
}

/* Slot 0 closes the circle: next[0] is the most recent, prev[0] the least. */
static inline void lru_front(Tree *t, u32 s) {
    u32 first = t->next[0];
    t->next[s] = first;
    t->prev[s] = 0;
    t->prev[first] = s;
    t->next[0] = s;
}

static inline void lru_back(Tree *t, u32 s) {
    u32 last = t->prev[0];
    t->prev[s] = last;
    t->next[s] = 0;
    t->next[last] = s;
    t->prev[0] = s;
}

/* A block whose turn came while something follows it waits outside the circle, a circle of its own. Back
 * at its end when nothing does: else each eviction would walk past all such blocks again. */
static inline int waits(const Tree *t, u32 s) { return t->next[s] == s; }

static inline void lru_wait(Tree *t, u32 s) {
    lru_unlink(t, s);
    t->prev[s] = t->next[s] = s;
}

static int room_for_slots(Tree *t, u32 n) {
    u64 unused = t->top - 1 - t->blocks - t->roots;
    while (n > unused && t->top + (n - unused) > t->cap)
        if (!slots_grow(t)) return 0;
    while (((u64)t->blocks + t->roots + n + 1) * 10 > (t->tmask + 1) * 7)
        if (!table_grow(t)) return 0;
    return 1;
}

static u32 make(Tree *t, u32 parent, u64 key, const char *tok, i32 width, u32 kids) {
    u32 s = t->free_head;
    if (s != NIL)
        t->free_head = t->next[s];
    else {
        s = t->top++;
        t->born[s] = 0;
    }
    t->key[s] = key;
    t->parent[s] = parent;
    t->kids[s] = kids;
    t->set[s] = 0;
    if (t->width) {
        char *to = t->tok + (size_t)s * t->width;
        if (width < t->width) memset(to, 0, t->width);
        if (tok) memcpy(to, tok, width < t->width ? width : t->width);
    }
    t->kids[parent]++;
    table_put(t, s);
    if (kids & VIRTUAL) t->roots++;
    else {
        lru_front(t, s);
        t->blocks++;
    }
    return s;
}

static void unmake(Tree *t, u32 s) {
    table_drop(t, s);
    if (t->set[s]) {
        const u64 *bits = t->set_bits + (size_t)t->set[s] * t->stride;
        for (u32 p = 0; p < PLANES; p++)
            for (u32 w = 0; w < t->words; w++)
                for (u64 b = bits[p * t->words + w]; b; b &= b - 1)
                    t->holder[((w << 6) + __builtin_ctzll(b)) * PLANES + p].held--;
        set_release(t, t->set[s]);
    }
    if (t->kids[s] & VIRTUAL) t->roots--;
    else {
        lru_unlink(t, s);
        t->blocks--;
    }
    u32 parent = t->parent[s];
    if (!--t->kids[parent] && waits(t, parent)) lru_back(t, parent); /* never 0 where VIRTUAL */
    t->parent[s] = NIL;
    t->born[s]++;
    t->next[s] = t->free_head;
    t->free_head = s;
}

/* Nobody has it and nothing follows it: it goes, and what then nothing follows above it. */
static void prune(Tree *t, u32 s) {
    while (s && !(t->kids[s] & KIDS) && !t->set[s] && ((t->kids[s] & VIRTUAL) || !t->remember)) {
        u32 parent = t->parent[s];
        unmake(t, s);
        s = parent;
    }
}

static void touch_path(Tree *t, u32 s) { /* from the last to the first: a prefix outlives what follows */
    for (; s && !(t->kids[s] & VIRTUAL); s = t->parent[s]) {
        lru_unlink(t, s);
        lru_front(t, s);
    }
}

static u32 evict_one(Tree *t, u64 *keys, u32 at) {
    for (;;) {
        u32 s = t->prev[0];
        if (!s) return 0;
        if (t->kids[s] & KIDS) {
            lru_wait(t, s);
            continue;
        }
        u32 parent = t->parent[s];
        if (keys) keys[at] = t->key[s];
        unmake(t, s);
        t->evicted++;
        prune(t, parent);
        return 1;
    }
}

/* -- who holds what --------------------------------------------------------------------------- */

static Holder *held_by(Tree *t, u32 holder, u32 plane) { return &t->holder[holder * PLANES + plane]; }

static int list_order(const void *a, const void *b) {
    u32 x = *(const u32 *)a, y = *(const u32 *)b;
    return x < y ? -1 : x > y;
}

static int room_in_list(Tree *t, Holder *h, u32 holder, u32 plane, u32 n) {
    if ((u64)h->listed + n > h->room) {
        if (h->listed > 64 && h->listed > 2 * (u64)h->held) { /* mostly stale */
            qsort(h->list, h->listed, sizeof(u32), list_order);
            u32 kept = 0;
            for (u32 i = 0; i < h->listed; i++) {
                u32 s = h->list[i];
                if ((kept && h->list[kept - 1] == s) || t->parent[s] == NIL ||
                    !has_bit(t, t->set[s], holder, plane))
                    continue;
                h->list[kept++] = s;
            }
            h->listed = kept;
        }
        u64 room = h->room ? h->room : 64;
        while (room < (u64)h->listed + n) room *= 2;
        if (room > h->room) {
            u32 *more = realloc(h->list, room * sizeof(u32));
            if (!more) return 0;
            h->list = more;
            h->room = room;
        }
    }
    return 1;
}

static inline int map_live(const Tree *t, const Map *m, u32 i) {
    u32 s = m->slot[i];
    return t->parent[s] != NIL && t->born[s] == m->born[i];
}

static u32 map_at(const Map *m, u64 hash) { /* where it is, or where it would go */
    u32 i = (u32)spread(hash) & m->mask;
    while (m->slot[i] && m->hash[i] != hash) i = (i + 1) & m->mask;
    return i;
}

static void map_free(Map *m) {
    free(m->hash);
    free(m->slot);
    free(m->born);
    free(m->count);
}

static int map_resize(Tree *t, Map *m, u32 size) {
    Map old = *m, fresh = {malloc((size_t)size * 8), calloc(size, 4), malloc((size_t)size * 4),
                           malloc((size_t)size * 4), size - 1, 0};
    if (!fresh.hash || !fresh.slot || !fresh.born || !fresh.count) {
        map_free(&fresh);
        return 0;
    }
    *m = fresh;
    for (u32 i = 0; old.slot && i <= old.mask; i++)
        if (old.slot[i] && map_live(t, &old, i)) {
            u32 j = map_at(m, old.hash[i]);
            m->hash[j] = old.hash[i];
            m->slot[j] = old.slot[i];
            m->born[j] = old.born[i];
            m->count[j] = old.count[i];
            m->used++;
        }
    map_free(&old);
    return 1;
}

/* Room for n more names. Those of blocks that are gone go first. */
static int room_in_map(Tree *t, Map *m, u32 n) {
    u64 size = m->slot ? (u64)m->mask + 1 : 64;
    if (m->slot && ((u64)m->used + n) * 10 <= size * 7) return 1;
    u64 live = n;
    for (u32 i = 0; m->slot && i <= m->mask; i++) live += m->slot[i] && map_live(t, m, i);
    while (live * 10 > size * 5) size *= 2;
    return size <= 1u << 31 && map_resize(t, m, size);
}

static void map_drop(Map *m, u32 i) {
    u32 k = m->mask;
    m->used--;
    for (u32 j = i;;) {
        m->slot[i] = 0;
        for (;;) {
            j = (j + 1) & k;
            if (!m->slot[j]) return;
            u32 home = (u32)spread(m->hash[j]) & k;
            if (((j - home) & k) >= ((j - i) & k)) break;
        }
        m->hash[i] = m->hash[j];
        m->slot[i] = m->slot[j];
        m->born[i] = m->born[j];
        m->count[i] = m->count[j];
        i = j;
    }
}

static u32 map_get(const Tree *t, const Map *m, u64 hash) {
    if (!m->slot) return 0;
    u32 i = map_at(m, hash);
    return m->slot[i] && map_live(t, m, i) ? m->slot[i] : 0;
}

static void gain(Tree *t, u32 slot, u32 holder, u32 plane, Memo *memo) {
    if (has_bit(t, t->set[slot], holder, plane)) return;
    flip(t, slot, holder, plane, memo);
    held_by(t, holder, plane)->held++;
}

static void lose(Tree *t, u32 slot, u32 holder, u32 plane, Memo *memo) {
    if (!has_bit(t, t->set[slot], holder, plane)) return;
    flip(t, slot, holder, plane, memo);
    held_by(t, holder, plane)->held--;
}

static void map_add(Tree *t, u32 holder, u32 plane, u64 hash, u32 slot, Memo *memo) {
    Map *m = &held_by(t, holder, plane)->map;
    u32 i = map_at(m, hash), before = m->slot[i] && map_live(t, m, i) ? m->slot[i] : 0;
    if (before == slot) {
        m->count[i]++;
        gain(t, slot, holder, plane, memo); /* it may have gone by another name */
        return;
    }
    m->used += !m->slot[i];
    m->hash[i] = hash;
    m->slot[i] = slot;
    m->born[i] = t->born[slot];
    m->count[i] = 1;
    gain(t, slot, holder, plane, memo);
    if (before) { /* the engine gave its hash to something else */
        lose(t, before, holder, plane, memo);
        prune(t, before);
    }
}

/* One copy less; 0 where it was not known. An engine has one name for a block. Where one gives two, the
 * first that it takes back takes the block: better not to know that it is there than to be wrong. */
static int map_take(Tree *t, u32 holder, u32 plane, u64 hash, Memo *memo) {
    Map *m = &held_by(t, holder, plane)->map;
    if (!m->slot) return 0;
    u32 i = map_at(m, hash);
    if (!m->slot[i]) return 0;
    if (!map_live(t, m, i)) { map_drop(m, i); return 0; }
    if (--m->count[i]) return 1;
    u32 s = m->slot[i];
    map_drop(m, i);
    lose(t, s, holder, plane, memo);
    prune(t, s);
    return 1;
}

/* -- from outside ----------------------------------------------------------------------------- */

void px_free(Tree *t) {
    if (!t) return;
    for (u32 h = 0; h < t->holders * PLANES; h++) {
        map_free(&t->holder[h].map);
        free(t->holder[h].list);
    }
    void *all[] = {t->key, t->parent, t->kids, t->set, t->prev, t->next, t->born, t->tok, t->table,
                   t->set_refs, t->set_link, t->set_bits, t->set_table, t->scratch, t->live, t->holder};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    free(t);
}

Tree *px_new(i32 block_size, u32 remember, u64 key_mask) {
    Tree *t = calloc(1, sizeof(Tree));
    if (!t) return NULL;
    t->bs = block_size;
    t->width = block_size * 4;
    t->remember = remember;
    t->key_mask = key_mask;
    t->cap = 1024;
    t->free_head = NIL;
    t->top = 1;
    t->words = 1;
    t->stride = PLANES;
    t->set_cap = 64;
    t->set_top = 1;
    t->set_free = NIL;
    t->tmask = 2047;
    t->key = malloc(8 * t->cap);
    t->parent = malloc(4 * t->cap);
    t->kids = malloc(4 * t->cap);
    t->set = malloc(4 * t->cap);
    t->prev = malloc(4 * t->cap);
    t->next = malloc(4 * t->cap);
    t->born = malloc(4 * t->cap);
    t->tok = malloc((size_t)t->width * t->cap + 1);
    t->table = calloc(t->tmask + 1, 4);
    t->set_refs = calloc(t->set_cap, 4);
    t->set_link = malloc(t->set_cap * 4);
    t->set_bits = calloc((size_t)t->set_cap * t->stride, 8);
    t->scratch = calloc(t->stride, 8);
    t->live = calloc(MASKS * t->words, 8);
    if (!t->key || !t->parent || !t->kids || !t->set || !t->prev || !t->next || !t->born || !t->tok ||
        !t->table || !t->set_refs || !t->set_link || !t->set_bits || !t->scratch || !t->live ||
        !sets_reindex(t, 64)) {
        px_free(t);
        return NULL;
    }
    t->key[0] = C2 & key_mask;
    t->parent[0] = NIL;
    t->kids[0] = VIRTUAL;
    t->set[0] = t->prev[0] = t->next[0] = t->born[0] = 0;
    if (t->width) memset(t->tok, 0, t->width);
    return t;
}

static void *copy(const void *from, size_t size) {
    void *to = malloc(size ? size : 1);
    if (to && size) memcpy(to, from, size);
    return to;
}

/* What readers of a snapshot need: slots, sets and the number of holders; no maps, so it never changes. */
Tree *px_clone(const Tree *t) {
    Tree *c = copy(t, sizeof(Tree));
    if (!c) return NULL;
    size_t n = c->cap = t->top;
    c->key = copy(t->key, n * 8);
    c->parent = copy(t->parent, n * 4);
    c->kids = copy(t->kids, n * 4);
    c->set = copy(t->set, n * 4);
    c->prev = copy(t->prev, n * 4);
    c->next = copy(t->next, n * 4);
    c->born = copy(t->born, n * 4);
    c->tok = copy(t->tok, n * t->width);
    c->table = copy(t->table, (t->tmask + 1) * 4);
    c->set_refs = copy(t->set_refs, (size_t)t->set_cap * 4);
    c->set_link = copy(t->set_link, (size_t)t->set_cap * 4);
    c->set_bits = copy(t->set_bits, (size_t)t->set_cap * t->stride * 8);
    c->set_table = copy(t->set_table, ((size_t)t->set_tmask + 1) * 4);
    c->scratch = copy(t->scratch, t->stride * 8);
    c->live = copy(t->live, (size_t)t->words * MASKS * 8);
    c->holder = calloc((size_t)t->holders * PLANES + 1, sizeof(Holder));
    if (!c->holder) c->holders = 0;
    if (!c->key || !c->parent || !c->kids || !c->set || !c->prev || !c->next || !c->born || !c->tok || !c->table ||
        !c->set_refs || !c->set_link || !c->set_bits || !c->set_table || !c->scratch || !c->live || !c->holder) {
        px_free(c);
        return NULL;
    }
    for (u32 h = 0; h < t->holders * PLANES; h++) c->holder[h].held = t->holder[h].held;
    return c;
}

/* Room for holders 0 to n - 1. */
int px_holders(Tree *t, u32 n) {
    if (n <= t->holders) return 1;
    Holder *more = realloc(t->holder, (size_t)n * PLANES * sizeof(Holder));
    if (!more) return 0;
    memset(more + (size_t)t->holders * PLANES, 0, (size_t)(n - t->holders) * PLANES * sizeof(Holder));
    t->holder = more; /* longer than it says until all the rest is there */
    u32 words = t->words;
    while (words * 64 < n) words *= 2;
    if (words == t->words) {
        t->holders = n;
        return 1;
    }
    u32 stride = words * PLANES;
    u64 *bits = calloc((size_t)t->set_cap * stride, 8);
    u64 *scratch = calloc(stride, 8), *live = calloc(words * MASKS, 8);
    u32 *fresh = malloc(((size_t)t->set_tmask + 1) * sizeof(u32));
    if (!bits || !scratch || !live || !fresh) {
        free(bits);
        free(scratch);
        free(live);
        free(fresh);
        return 0;
    }
    for (u32 s = 1; s < t->set_top; s++)
        for (u32 p = 0; p < PLANES; p++)
            memcpy(bits + (size_t)s * stride + p * words,
                   t->set_bits + (size_t)s * t->stride + p * t->words, t->words * 8);
    free(t->set_bits);
    free(t->scratch);
    free(t->live);
    t->set_bits = bits;
    t->scratch = scratch;
    t->live = live;
    t->words = words;
    t->stride = stride;
    t->holders = n;
    sets_rehash(t, fresh, t->set_tmask + 1);
    return 1;
}

/* The virtual slot of a salt below `parent`; 0 where there is none and none is to be made. A salt keeps
 * the end of its digest where a block has its neighbours: small blocks have no room for all of it. */
u32 px_salt(Tree *t, u32 parent, const char *digest, int create) {
    i32 width = t->width ? (t->width < 16 ? t->width : 16) : 16;
    u32 end[2];
    memcpy(end, digest + 8, 8);
    u64 key = key_of(t, t->key[parent], digest, 16);
    u64 i = spread(key) & t->tmask;
    for (u32 s; (s = t->table[i]); i = (i + 1) & t->tmask)
        if (t->key[s] == key && t->parent[s] == parent && (t->kids[s] & VIRTUAL) && t->prev[s] == end[0] &&
            t->next[s] == end[1] && (!t->width || !memcmp(t->tok + (size_t)s * t->width, digest, width)))
            return s;
    if (!create || !room_for_slots(t, 1)) return 0;
    u32 s = make(t, parent, key, digest, width, VIRTUAL);
    t->prev[s] = end[0];
    t->next[s] = end[1];
    return s;
}

/* How far each holder reaches, for every mask of planes: out[mask * rows + holder], in blocks. There is
 * room for the first `rows` holders: those that came while the caller made it are left out.
 * Returns the blocks that are known at all, whether another one follows the last of them, and, above
 * bit 32, the slot of that. */
#define LOOKUP(NEXT)                                                                               \
    u32 W = t->words, cur = 0, s = root, d = 0;                                                    \
    memset(t->live, 0xFF, (size_t)masks * W * 8);                                                  \
    int alive = 1;                                                                                 \
    for (; d < n; d++) {                                                                           \
        u32 c = NEXT;                                                                              \
        if (!c) break;                                                                             \
        s = c;                                                                                     \
        if (alive && (t->set[c] != cur || !d)) {                                                   \
            cur = t->set[c];                                                                       \
            alive = narrow(t, cur, d, masks, mask, out, rows);                                     \
        }                                                                                          \
    }                                                                                              \
    if (alive && d)                                                                                \
        for (u32 m = 0; m < masks; m++)                                                            \
            for (u32 w = 0; w < W; w++)                                                            \
                reached(out + (size_t)m * rows, t->live[m * W + w], w, d, rows);                   \
    return (u64)s << 32 | (d && t->kids[s] & KIDS ? FOLLOWED : 0) | d;

static inline void reached(u32 *out, u64 bits, u32 word, u32 d, u32 rows) {
    for (; bits; bits &= bits - 1) {
        u32 holder = (word << 6) + __builtin_ctzll(bits);
        if (holder < rows) out[holder] = d;
    }
}

static int narrow(Tree *t, u32 set, u32 d, u32 masks, const u32 *mask, u32 *out, u32 rows) {
    u32 W = t->words;
    const u64 *bits = t->set_bits + (size_t)set * t->stride;
    u64 any = 0;
    for (u32 m = 0; m < masks; m++)
        for (u32 w = 0; w < W; w++) {
            u64 has = 0;
            if (set)
                for (u32 p = 0; p < PLANES; p++)
                    if (mask[m] >> p & 1) has |= bits[p * W + w];
            u64 live = t->live[m * W + w];
            if (d) reached(out + (size_t)m * rows, live & ~has, w, d, rows);
            any |= t->live[m * W + w] = live & has;
        }
    return any != 0;
}

static u64 px_lookup(Tree *t, u32 root, const char *tok, u32 n, u32 masks, const u32 *mask, u32 *out, u32 rows) {
    LOOKUP(child(t, s, tok + (size_t)d * t->width))
}

static u64 px_lookup_keys(Tree *t, u32 root, const u64 *keys, u32 n, u32 masks, const u32 *mask, u32 *out,
                          u32 rows) {
    LOOKUP(child_by_key(t, s, keys[d]))
}

/* Which planes are asked for, and where the answer goes. */
typedef struct { const u32 *mask; u32 *out; u32 masks, rows; } Ask;

/* Either of them below the root of a salt, in one call: two cost more than the walk, and so do many
 * arguments. */
u64 px_find(Tree *t, const Ask *ask, const char *digest, const char *data, u32 n, int keyed) {
    u32 root = px_salt(t, 0, digest, 0);
    memset(ask->out, 0, (size_t)ask->masks * ask->rows * sizeof(u32));
    if (!root) return 0;
    if (keyed) return px_lookup_keys(t, root, (const u64 *)data, n, ask->masks, ask->mask, ask->out, ask->rows);
    return px_lookup(t, root, data, n, ask->masks, ask->mask, ask->out, ask->rows);
}

/* Of a path that ends at `slot`: how many of its leading n blocks have these tokens. */
u32 px_verify(const Tree *t, u32 slot, u32 born, const char *tok, u32 n) {
    if (slot >= t->top || t->parent[slot] == NIL || t->born[slot] != born) return 0;
    u32 good = n;
    for (u32 d = n; d--; slot = t->parent[slot]) {
        if (!slot || (t->kids[slot] & VIRTUAL)) return 0;
        if (!same(t->tok + (size_t)slot * t->width, tok + (size_t)d * t->width, t->width)) good = d;
    }
    return good;
}

static u32 descend(Tree *t, u32 s, const char *tok, u64 key) {
    u32 c = tok ? child(t, s, tok) : child_by_key(t, s, key);
    if (c) return c;
    return make(t, s, tok ? key_of(t, t->key[s], tok, t->width) : key, tok, t->width, 0);
}

/* Keys of the next blocks below `s`, all of them new; how many. Their places in the table are fetched
 * meanwhile: one by one, each would wait for memory. */
static u32 look_ahead(const Tree *t, u32 s, const char *tok, const u64 *keys, u32 n, u64 *ahead) {
    u64 key = t->key[s];
    if (n > AHEAD) n = AHEAD;
    for (u32 i = 0; i < n; i++) {
        ahead[i] = key = tok ? key_of(t, key, tok + (size_t)i * t->width, t->width) : keys[i];
        __builtin_prefetch(t->table + (spread(key) & t->tmask), 1);
    }
    return n;
}

/* `holder` has these blocks below a salt, given by tokens or, in a tree of keys, by those. Returns the last
 * slot; told: its birth and its key. */
u32 px_insert(Tree *t, const char *digest, const char *data, u32 n, u32 holder, u32 plane, u64 *told) {
    Memo memo = {0, NIL};
    const char *tok = t->width ? data : NULL;
    const u64 *keys = (const u64 *)data;
    u32 root = px_salt(t, 0, digest, 1);
    if (!root) return FULL;
    Holder *h = held_by(t, holder, plane);
    u64 ahead[AHEAD];
    u32 s = root, from = 0, until = 0;
    if (!room_for_slots(t, n) || !room_for_sets(t, n) || !room_in_list(t, h, holder, plane, n)) return FULL;
    for (u32 d = 0; d < n; d++) {
        const char *at = tok ? tok + (size_t)d * t->width : NULL;
        u32 c = tok ? child(t, s, at) : child_by_key(t, s, keys[d]);
        if (!c) {
            if (d >= until) until = (from = d) + look_ahead(t, s, at, tok ? NULL : keys + d, n - d, ahead);
            c = make(t, s, ahead[d - from], at, t->width, 0);
        }
        s = c;
        if (!has_bit(t, t->set[s], holder, plane)) {
            flip(t, s, holder, plane, &memo);
            h->held++;
            h->list[h->listed++] = s;
        }
    }
    memo_end(t, &memo);
    touch_path(t, s);
    told[0] = t->born[s];
    told[1] = t->key[s];
    return s;
}

/* Evict, least recent leaves first, until at most `most` blocks are left; keys of up to `room` of them. */
u32 px_evict(Tree *t, u32 most, u64 *keys, u32 room) {
    u32 gone = 0;
    while (t->blocks > most && evict_one(t, gone < room ? keys : NULL, gone)) gone++;
    return gone;
}

/* `holder` does not have the path below `root` from its block `from` on. */
u32 px_withdraw(Tree *t, u32 root, const char *tok, const u64 *keys, u32 n, u32 from, u32 holder, u32 plane) {
    Memo memo = {0, NIL};
    u32 s = root, gone = 0;
    if (!room_for_sets(t, n)) return FULL;
    for (u32 d = 0; d < n; d++) {
        u32 c = tok ? child(t, s, tok + (size_t)d * t->width) : child_by_key(t, s, keys[d]);
        if (!c) break;
        s = c;
        if (d >= from && has_bit(t, t->set[s], holder, plane)) {
            lose(t, s, holder, plane, &memo);
            gone++;
        }
    }
    memo_end(t, &memo);
    prune(t, s);
    return gone;
}

/* The engine of `holder` stored n blocks behind the block it calls `behind`, or behind `root`. Where tok
 * is NULL its hashes are our keys. Returns the blocks taken, or NIL where the one before is not known. */
u32 px_stored(Tree *t, u32 root, int has_parent, u64 behind, const u64 *hashes, const char *tok, u32 n,
              u32 holder, u32 plane) {
    u32 s = root;
    if (has_parent)
        for (u32 p = 0; p < TIERS; p++)
            if ((s = map_get(t, &held_by(t, holder, (plane + p) % TIERS)->map, behind))) break;
    if (has_parent && !s) return NIL;
    if (!room_for_slots(t, n) || !room_for_sets(t, n) || !room_in_map(t, &held_by(t, holder, plane)->map, n))
        return FULL;
    Memo memo = {0, NIL};
    for (u32 d = 0; d < n; d++) {
        s = descend(t, s, tok ? tok + (size_t)d * t->width : NULL, hashes[d]);
        lru_unlink(t, s);
        lru_front(t, s);
        map_add(t, holder, plane, hashes[d], s, &memo);
    }
    memo_end(t, &memo);
    return n;
}

/* It has blocks in `plane` that it has, or had a moment ago, in another one. Returns those known. */
u32 px_stored_again(Tree *t, const u64 *hashes, u32 n, u32 holder, u32 plane) {
    Memo memo = {0, NIL};
    u32 known = 0;
    if (!room_for_sets(t, n) || !room_in_map(t, &held_by(t, holder, plane)->map, n)) return FULL;
    for (u32 d = 0; d < n; d++)
        for (u32 q = 0; q < TIERS; q++) {
            u32 s = map_get(t, &held_by(t, holder, q)->map, hashes[d]);
            if (!s) continue;
            map_add(t, holder, plane, hashes[d], s, &memo);
            known++;
            break;
        }
    memo_end(t, &memo);
    return known;
}

/* Returns the blocks that were known. */
u32 px_removed(Tree *t, const u64 *hashes, u32 n, u32 holder, u32 plane) {
    Memo memo = {0, NIL};
    u32 known = 0;
    if (!room_for_sets(t, n)) return FULL;
    for (u32 d = 0; d < n; d++) known += map_take(t, holder, plane, hashes[d], &memo);
    memo_end(t, &memo);
    return known;
}

/* It will have these blocks, or (by < 0) is not expected to any more; counted, so that two who expect
 * the same do not undo each other. */
u32 px_expect(Tree *t, u32 root, const char *tok, const u64 *keys, u32 n, u32 holder, u32 plane, int by) {
    Memo memo = {0, NIL};
    u32 s = root, d = 0;
    if (!room_for_sets(t, n)) return FULL;
    if (by > 0 && (!room_for_slots(t, n) || !room_in_map(t, &held_by(t, holder, plane)->map, n))) return FULL;
    for (; d < n; d++) {
        const char *at = tok ? tok + (size_t)d * t->width : NULL;
        u32 c = by > 0 ? descend(t, s, at, tok ? 0 : keys[d]) : tok ? child(t, s, at) : child_by_key(t, s, keys[d]);
        if (!c) break;
        s = c;
        if (by > 0) map_add(t, holder, plane, s, s, &memo);
    }
    memo_end(t, &memo);
    if (by > 0) touch_path(t, s);
    else
        for (u32 k = d; k; k--) { /* upwards, since a block that goes takes those above it along */
            u32 parent = t->parent[s];
            if (parent == NIL) break;
            map_take(t, holder, plane, s, &memo);
            memo_end(t, &memo);
            s = parent;
        }
    return d;
}

/* Everything that `holder` has in `plane` is gone, in time proportional to that. */
u32 px_clear(Tree *t, u32 holder, u32 plane) {
    Holder *h = held_by(t, holder, plane);
    if (!room_for_sets(t, h->held)) return FULL;
    Memo memo = {0, NIL};
    Map m = h->map;
    memset(&h->map, 0, sizeof(Map));
    if (m.slot) {
        for (u32 i = 0; i <= m.mask; i++)
            if (m.slot[i] && map_live(t, &m, i)) {
                lose(t, m.slot[i], holder, plane, &memo);
                prune(t, m.slot[i]);
            }
        map_free(&m);
    }
    for (u32 i = h->listed; i--;) {
        u32 s = h->list[i];
        if (t->parent[s] == NIL || !has_bit(t, t->set[s], holder, plane)) continue;
        lose(t, s, holder, plane, &memo);
        prune(t, s);
    }
    memo_end(t, &memo);
    free(h->list);
    h->list = NULL;
    h->listed = h->room = 0;
    return 0;
}

/* Keys without a tree: chained from `key`. */
void px_chain(u64 key, const char *tok, u32 n, i32 width, u64 *keys) {
    for (u32 d = 0; d < n; d++) keys[d] = key = chain(key, tok + (size_t)d * width, width);
}

u64 px_key(const Tree *t, u32 slot) { return t->key[slot]; }
u32 px_born(const Tree *t, u32 slot) { /* a caller may have the slot from another tree */
    return slot < t->top && t->parent[slot] != NIL ? t->born[slot] : NIL;
}
u32 px_held(const Tree *t, u32 holder, u32 plane) { return t->holder[holder * PLANES + plane].held; }

/* blocks, roots, conflicts, evicted, bytes, sets */
void px_stats(const Tree *t, u64 *out) {
    out[0] = t->blocks;
    out[1] = t->roots;
    out[2] = t->conflicts;
    out[3] = t->evicted;
    out[5] = t->sets;
    u64 bytes = sizeof(Tree) + (u64)t->top * (32 + t->width) + (t->tmask + 1) * 4;
    bytes += (u64)t->set_top * (t->stride * 8 + 8) + ((u64)t->set_tmask + 1) * 4;
    for (u32 h = 0; h < t->holders * PLANES; h++) {
        const Holder *one = &t->holder[h];
        bytes += sizeof(Holder) + (u64)one->listed * 4 + (one->map.slot ? ((u64)one->map.mask + 1) * 20 : 0);
    }
    out[4] = bytes;
}

/* 0 where everything fits together, else the number of what does not (see compiled.py). */
int px_check(const Tree *t) {
    u32 blocks = 0, roots = 0, listed = 0;
    u32 *kids = calloc(t->top, 4), *refs = calloc(t->set_top, 4), *held = calloc((size_t)t->holders * PLANES + 1, 4);
    int bad = !kids || !refs || !held ? 1 : 0;
    for (u32 s = 1; s < t->top && !bad; s++) {
        if (t->parent[s] == NIL) continue;
        if (t->parent[t->parent[s]] == NIL && t->parent[s]) bad = 2;
        kids[t->parent[s]]++;
        refs[t->set[s]]++;
        if (t->kids[s] & VIRTUAL) roots++;
        else blocks++;
        u64 i = spread(t->key[s]) & t->tmask;
        while (t->table[i] && t->table[i] != s) i = (i + 1) & t->tmask;
        if (!t->table[i]) bad = 3;
        if (t->width && !(t->kids[s] & VIRTUAL) &&
            t->key[s] != key_of(t, t->key[t->parent[s]], t->tok + (size_t)s * t->width, t->width))
            bad = 4;
        for (u32 h = 0; h < t->holders; h++)
            for (u32 p = 0; p < PLANES; p++) held[h * PLANES + p] += has_bit(t, t->set[s], h, p);
        if (!t->remember && !t->set[s] && !t->kids[s]) bad = 5;
    }
    for (u32 s = 0; s < t->top && !bad; s++)
        if ((!s || t->parent[s] != NIL) && (t->kids[s] & KIDS) != kids[s]) bad = 6;
    if (!bad && (blocks != t->blocks || roots != t->roots)) bad = 7;
    for (u32 s = t->next[0], before = 0; s && !bad; before = s, s = t->next[s])
        if (t->prev[s] != before || t->parent[s] == NIL || ++listed > blocks) bad = 8;
    for (u32 s = 1; s < t->top && !bad; s++)
        if (t->parent[s] != NIL && !(t->kids[s] & VIRTUAL) && waits(t, s)) {
            if (!t->kids[s] || t->prev[s] != s) bad = 8;
            listed++;
        }
    if (!bad && listed != blocks) bad = 8;
    u32 sets = 0;
    for (u32 s = 1; s < t->set_top && !bad; s++) {
        if (refs[s] != t->set_refs[s]) bad = 9;
        sets += refs[s] != 0;
    }
    if (!bad && sets != t->sets) bad = 9;
    for (u32 h = 0; h < t->holders * PLANES && !bad; h++)
        if (held[h] != t->holder[h].held) bad = 10;
    for (u32 h = 0; h < t->holders * PLANES && !bad; h++) {
        const Map *m = &t->holder[h].map;
        u32 used = 0;
        for (u32 i = 0; m->slot && i <= m->mask; i++) used += m->slot[i] != 0;
        if (used != m->used) bad = 11;
    }
    free(kids);
    free(refs);
    free(held);
    return bad;
}
