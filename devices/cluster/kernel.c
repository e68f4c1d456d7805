/* The blocks of a Llama-like network on a processor: attention and feed-forward, each with its
 * norm, over matrices in panels of sixteen rows (packing.py says how they lie).
 *
 * Integers are multiplied as integers: activations are rounded to int8 with one scale for each 32
 * and multiplied with the stored bytes; no weight is ever widened in memory. Each function is run
 * by a team of threads that meet at barriers, so that a block costs one call. Compiled on the
 * machine that runs it; beside the form for AVX-512 with VNNI there are
 * shorter ones for AVX2 and for ARM with dot products, and one for any processor.
 */
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__)
#define WIDE 1
#else
#define WIDE 0
#endif

#define PANEL 16
#define GROUP 32
enum { FP32, BF16, INT8, INT4 };
typedef int64_t i64;

static inline int padded(int columns) { return (columns + 63) / 64 * 64; }
static inline int aligned(int rows) { return (rows + PANEL - 1) / PANEL * PANEL; }
static const int bytes_of_64[4] = {4096, 2048, 1088, 640};
static inline i64 panel_bytes(int kind, int columns) {
  return (i64)padded(columns) / 64 * bytes_of_64[kind];
}

/* ---- a team of threads -------------------------------------------------------------------- */

struct team;
typedef void (*task_fn)(void *argument, int thread, struct team *team);

struct team {
  int count, stop;
  pthread_t *threads;
  task_fn task;
  void *argument;
  atomic_int generation, arrived, round, sleeping;
  pthread_mutex_t lock;
  pthread_cond_t wake;
};

static inline void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* Spins shortly, then gives the core to whoever wants it: a cluster's ranks may share cores. */
static void meet(struct team *team) {
  if (team->count == 1) return;
  int round = atomic_load(&team->round);
  if (atomic_fetch_add(&team->arrived, 1) == team->count - 1) {
    atomic_store(&team->arrived, 0);
    atomic_store(&team->round, round + 1);
    return;
  }
  for (int spins = 0; atomic_load_explicit(&team->round, memory_order_acquire) == round; spins++)
    if (spins < 2000) relax(); else sched_yield();
}

struct member { struct team *team; int index; };

static void *serve(void *pointer) {
  struct member me = *(struct member *)pointer;
  free(pointer);
  struct team *team = me.team;
  int seen = 0;
  for (;;) {
    int now, spins = 0;
    while ((now = atomic_load_explicit(&team->generation, memory_order_acquire)) == seen) {
      if (spins++ < 1500) { relax(); continue; }
      pthread_mutex_lock(&team->lock);
      atomic_fetch_add(&team->sleeping, 1);
      while (atomic_load(&team->generation) == seen) pthread_cond_wait(&team->wake, &team->lock);
      atomic_fetch_sub(&team->sleeping, 1);
      pthread_mutex_unlock(&team->lock);
    }
    seen = now;
    if (team->stop) return NULL;
    team->task(team->argument, me.index, team);
    meet(team);
  }
}

static void announce(struct team *team) {
  atomic_fetch_add(&team->generation, 1);
  if (atomic_load(&team->sleeping)) {
    pthread_mutex_lock(&team->lock);
    pthread_cond_broadcast(&team->wake);
    pthread_mutex_unlock(&team->lock);
  }
}

static void work(struct team *team, task_fn task, void *argument) {
  team->task = task;
  team->argument = argument;
  if (team->count > 1) announce(team);
  task(argument, 0, team);
  meet(team);
}

void team_close(struct team *team) {
  if (!team) return;
  team->stop = 1;
  announce(team);
  for (int i = 1; i < team->count; i++) pthread_join(team->threads[i], NULL);
  free(team->threads);
  free(team);
}

struct team *team_open(int count) {
  struct team *team = calloc(1, sizeof *team);
  if (!team) return NULL;
  team->threads = calloc(count, sizeof(pthread_t));
  pthread_mutex_init(&team->lock, NULL);
  pthread_cond_init(&team->wake, NULL);
  team->count = 1;
  pthread_attr_t small;
  pthread_attr_init(&small);
  pthread_attr_setstacksize(&small, 256 * 1024);
  for (int i = 1; team->threads && i < count; i++) {
    struct member *member = malloc(sizeof *member);
    if (!member) break;
    *member = (struct member){team, i};
    /* The count is read at barriers only, and nothing is announced before all are here. */
    if (pthread_create(&team->threads[i], &small, serve, member)) { free(member); break; }
    team->count++;
  }
  pthread_attr_destroy(&small);
  return team;
}

static inline void part_of(int items, int thread, int threads, int *first, int *last) {
  *first = (int)((i64)items * thread / threads);
  *last = (int)((i64)items * (thread + 1) / threads);
}

/* ---- numbers ------------------------------------------------------------------------------- */

/* exp to about 2e-7, in a form that compilers turn into vectors. */
static inline float exp_of(float x) {
  x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
  float n = nearbyintf(x * 1.44269504f);
  float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  union { int32_t i; float f; } two = {((int32_t)n + 127) << 23};
  return p * two.f;
}

static inline float dot(const float *a, const float *b, int n) {
  float sum = 0;
  for (int i = 0; i < n; i++) sum += a[i] * b[i];
  return sum;
}

static inline void widen(const uint16_t *half, float *out, int n) {
  int i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= n; i += 16)
    _mm512_storeu_ps(out + i, _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(half + i))));
#elif defined(__F16C__)
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const void *)(half + i))));
#endif
  for (; i < n; i++) { _Float16 h; memcpy(&h, half + i, 2); out[i] = (float)h; }
}

static inline void narrow(const float *values, uint16_t *half, int n) {
  for (int i = 0; i < n; i++) { _Float16 h = (_Float16)values[i]; memcpy(half + i, &h, 2); }
}

static void normalise(const float *x, const float *weight, float *out, int n, float epsilon) {
  float scale = 1.0f / sqrtf(dot(x, x, n) / n + epsilon);
  for (int i = 0; i < n; i++) out[i] = x[i] * scale * weight[i];
}

/* ---- what a matrix is multiplied with ------------------------------------------------------ */

/* Some tokens' activations: as they are, or rounded to int8 by groups. */
struct inputs {
  float *values;   /* tokens x padded columns, zeros after the last */
  int8_t *bytes;   /* the same, rounded */
  float *scales;   /* tokens x groups */
  float *sums;     /* tokens x groups: the sum of a group's rounded values */
};

static inline int is_integer(int kind) { return kind == INT8 || kind == INT4; }

static void round_row(struct inputs *in, int token, int width) {
  const float *x = in->values + (i64)token * width;
  int8_t *q = in->bytes + (i64)token * width;
  int groups = width / GROUP;
  for (int g = 0; g < groups; g++, x += GROUP, q += GROUP) {
    float most = 0;
    for (int i = 0; i < GROUP; i++) { float a = fabsf(x[i]); most = a > most ? a : most; }
    float inverse = most > 0 ? 127.0f / most : 0.0f;
    int32_t sum = 0;
    for (int i = 0; i < GROUP; i++) {
      int32_t v = (int32_t)nearbyintf(x[i] * inverse);
      q[i] = (int8_t)v;
      sum += v;
    }
    in->scales[(i64)token * groups + g] = most / 127.0f;
    in->sums[(i64)token * groups + g] = (float)sum;
  }
}

/* Sixteen rows times some tokens; acc is tokens x 16. The number of tokens is a constant where
 * these are called, so that every accumulator is a register. */
#define PANEL_FUNCTION static inline __attribute__((always_inline)) void

#if WIDE
/* Ask for what is multiplied next but some: left to itself the processor fetches too late, and one
 * core then reads bf16 at 9.4 GB/s in place of 13.7, and int4 at 9.4 in place of 12.9. */
static inline void ahead(const uint8_t *w, int lines) {
  for (int i = 0; i < lines; i++) _mm_prefetch((const char *)w + 2048 + 64 * i, _MM_HINT_T0);
}

PANEL_FUNCTION panel_fp32(const uint8_t *w, struct inputs *in, int token, int width, float *out,
                          const int tokens) {
  const float *x = in->values + (i64)token * width;
  __m512 acc[8], more[8];
  for (int t = 0; t < tokens; t++) acc[t] = more[t] = _mm512_setzero_ps();
  for (int k = 0; k < width; k += 2, w += 128) {
    ahead(w, 2);
    __m512 even = _mm512_loadu_ps(w), odd = _mm512_loadu_ps(w + 64);
    for (int t = 0; t < tokens; t++) {
      acc[t] = _mm512_fmadd_ps(even, _mm512_set1_ps(x[(i64)t * width + k]), acc[t]);
      more[t] = _mm512_fmadd_ps(odd, _mm512_set1_ps(x[(i64)t * width + k + 1]), more[t]);
    }
  }
  for (int t = 0; t < tokens; t++) _mm512_storeu_ps(out + 16 * t, _mm512_add_ps(acc[t], more[t]));
}

PANEL_FUNCTION panel_bf16(const uint8_t *w, struct inputs *in, int token, int width, float *out,
                          const int tokens) {
  const float *x = in->values + (i64)token * width;
  const __m512i high = _mm512_set1_epi32((int)0xFFFF0000u);
  __m512 acc[8], more[8];
  for (int t = 0; t < tokens; t++) acc[t] = more[t] = _mm512_setzero_ps();
  for (int k = 0; k < width; k += 2, w += 64) {
    ahead(w, 1);
    __m512i both = _mm512_loadu_si512(w);
    __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
    __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(both, high));
    for (int t = 0; t < tokens; t++) {
      acc[t] = _mm512_fmadd_ps(even, _mm512_set1_ps(x[(i64)t * width + k]), acc[t]);
      more[t] = _mm512_fmadd_ps(odd, _mm512_set1_ps(x[(i64)t * width + k + 1]), more[t]);
    }
  }
  for (int t = 0; t < tokens; t++) _mm512_storeu_ps(out + 16 * t, _mm512_add_ps(acc[t], more[t]));
}

static inline __m512i quad(const int8_t *q) {
  int32_t four;
  memcpy(&four, q, 4);
  return _mm512_set1_epi32(four);
}

static inline __m512 halves(const uint8_t *at) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)at));
}

PANEL_FUNCTION panel_int8(const uint8_t *w, struct inputs *in, int token, int width, float *out,
                          const int tokens) {
  int groups = width / GROUP;
  const int8_t *q = in->bytes + (i64)token * width;
  const float *scales = in->scales + (i64)token * groups, *sums = in->sums + (i64)token * groups;
  __m512 acc[8];
  for (int t = 0; t < tokens; t++) acc[t] = _mm512_setzero_ps();
  for (int g = 0; g < groups; g++) {
    const uint8_t *pair = w + (i64)(g / 2) * 1088, *body = pair + 64 + g % 2 * 512;
    ahead(body, 9);
    __m512 scale = halves(pair + g % 2 * 32);
    for (int t = 0; t < tokens; t++) {
      const int8_t *row = q + (i64)t * width + g * GROUP;
      __m512i one = _mm512_setzero_si512(), two = _mm512_setzero_si512();
      for (int j = 0; j < 8; j += 2) {
        one = _mm512_dpbusd_epi32(one, _mm512_loadu_si512(body + 64 * j), quad(row + 4 * j));
        two = _mm512_dpbusd_epi32(two, _mm512_loadu_si512(body + 64 * j + 64), quad(row + 4 * j + 4));
      }
      /* A stored byte is 128 too large. */
      __m512 sum = _mm512_cvtepi32_ps(_mm512_add_epi32(one, two));
      sum = _mm512_sub_ps(sum, _mm512_set1_ps(128.0f * sums[t * groups + g]));
      __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(scales[t * groups + g]));
      acc[t] = _mm512_fmadd_ps(both, sum, acc[t]);
    }
  }
  for (int t = 0; t < tokens; t++) _mm512_storeu_ps(out + 16 * t, acc[t]);
}

PANEL_FUNCTION panel_int4(const uint8_t *w, struct inputs *in, int token, int width, float *out,
                          const int tokens) {
  int groups = width / GROUP;
  const int8_t *q = in->bytes + (i64)token * width;
  const float *scales = in->scales + (i64)token * groups, *sums = in->sums + (i64)token * groups;
  const __m512i low = _mm512_set1_epi8(15);
  __m512 acc[8];
  for (int t = 0; t < tokens; t++) acc[t] = _mm512_setzero_ps();
  for (int g = 0; g < groups; g++, w += 320) {
    ahead(w, 5);
    __m512 scale = halves(w), least = halves(w + 32);
    __m512i weights[8];
    for (int j = 0; j < 4; j++) {
      __m512i both = _mm512_loadu_si512(w + 64 + 64 * j);
      weights[2 * j] = _mm512_and_si512(both, low);
      weights[2 * j + 1] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
    }
    for (int t = 0; t < tokens; t++) {
      const int8_t *row = q + (i64)t * width + g * GROUP;
      __m512i one = _mm512_setzero_si512(), two = _mm512_setzero_si512();
      for (int j = 0; j < 8; j += 2) {
        one = _mm512_dpbusd_epi32(one, weights[j], quad(row + 4 * j));
        two = _mm512_dpbusd_epi32(two, weights[j + 1], quad(row + 4 * j + 4));
      }
      __m512 sum = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(one, two)), scale);
      sum = _mm512_fmadd_ps(least, _mm512_set1_ps(sums[t * groups + g]), sum);
      acc[t] = _mm512_fmadd_ps(sum, _mm512_set1_ps(scales[t * groups + g]), acc[t]);
    }
  }
  for (int t = 0; t < tokens; t++) _mm512_storeu_ps(out + 16 * t, acc[t]);
}

#else /* loops over sixteen rows that compilers turn into vectors */

PANEL_FUNCTION panel_fp32(const uint8_t *w, struct inputs *in, int token, int width, float *out,
                          const int tokens) {
  const float *x = in->values + (i64)token * width, *row = (const float *)w;
  for (int i = 0; i < 16 * tokens; i++) out[i] = 0;
  for (int k = 0; k < width; k++, row += 16)
    for (int t = 0; t < tokens; t++)
      for (int r = 0; r < 16; r++) out[16 * t + r] += row[r] * x[(i64)t * width + k];
}

PANEL_FUNCTION panel_bf16(const uint8_t *w, struct inputs *in, int token, int width, float *out,
                          const int tokens) {
  const float *x = in->values + (i64)token * width;
  const uint32_t *both = (const uint32_t *)w;
  for (int i = 0; i < 16 * tokens; i++) out[i] = 0;
  for (int k = 0; k < width; k += 2, both += 16)
    for (int t = 0; t < tokens; t++)
      for (int r = 0; r < 16; r++) {
        union { uint32_t i; float f; } even = {both[r] << 16}, odd = {both[r] & 0xFFFF0000u};
        out[16 * t + r] += even.f * x[(i64)t * width + k] + odd.f * x[(i64)t * width + k + 1];
      }
}

/* sum[16] += four columns of sixteen rows, whose four bytes lie together, times four inputs. Stored
 * bytes of int8 are 128 too large (offset), which the processors that want signed ones undo. */
#if defined(__AVX2__)
static inline void quads(const uint8_t *body, const int8_t *q, const int offset, int32_t *sum) {
  int32_t four;
  memcpy(&four, q, 4);
  const __m256i x = _mm256_set1_epi32(four), one = _mm256_set1_epi16(1);
  for (int half = 0; half < 2; half++) {
    __m256i w = _mm256_loadu_si256((const void *)(body + 32 * half)), pairs;
    if (offset) { /* of the product's two factors the first is unsigned: the sign goes over */
      w = _mm256_xor_si256(w, _mm256_set1_epi8((char)0x80));
      pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    } else {
      pairs = _mm256_maddubs_epi16(w, x);
    }
    __m256i old = _mm256_loadu_si256((const void *)(sum + 8 * half));
    old = _mm256_add_epi32(old, _mm256_madd_epi16(pairs, one));
    _mm256_storeu_si256((void *)(sum + 8 * half), old);
  }
}
#elif defined(__ARM_FEATURE_DOTPROD)
static inline void quads(const uint8_t *body, const int8_t *q, const int offset, int32_t *sum) {
  int32_t four;
  memcpy(&four, q, 4);
  const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(four));
  for (int part = 0; part < 4; part++) {
    uint8x16_t w = vld1q_u8(body + 16 * part);
    if (offset) w = veorq_u8(w, vdupq_n_u8(0x80));
    vst1q_s32(sum + 4 * part, vdotq_s32(vld1q_s32(sum + 4 * part), vreinterpretq_s8_u8(w), x));
  }
}
#else
static inline void quads(const uint8_t *body, const int8_t *q, const int offset, int32_t *sum) {
  for (int r = 0; r < 16; r++)
    for (int i = 0; i < 4; i++) sum[r] += ((int32_t)body[4 * r + i] - (offset ? 128 : 0)) * q[i];
}
#endif

PANEL_FUNCTION panel_int8(const uint8_t *w, struct inputs *in, int token, int width, float *out,
                          const int tokens) {
  int groups = width / GROUP;
  for (int i = 0; i < 16 * tokens; i++) out[i] = 0;
  for (int g = 0; g < groups; g++) {
    const uint8_t *pair = w + (i64)(g / 2) * 1088, *body = pair + 64 + g % 2 * 512;
    float scale[16];
    widen((const uint16_t *)(pair + g % 2 * 32), scale, 16);
    for (int t = 0; t < tokens; t++) {
      i64 at = (i64)(token + t) * groups + g;
      const int8_t *q = in->bytes + (i64)(token + t) * width + g * GROUP;
      int32_t sum[16] = {0};
      for (int j = 0; j < 8; j++) quads(body + 64 * j, q + 4 * j, 1, sum);
      for (int r = 0; r < 16; r++) out[16 * t + r] += scale[r] * in->scales[at] * (float)sum[r];
    }
  }
}

PANEL_FUNCTION panel_int4(const uint8_t *w, struct inputs *in, int token, int width, float *out,
                          const int tokens) {
  int groups = width / GROUP;
  for (int i = 0; i < 16 * tokens; i++) out[i] = 0;
  for (int g = 0; g < groups; g++, w += 320) {
    float scale[16], least[16];
    uint8_t body[512];
    widen((const uint16_t *)w, scale, 16);
    widen((const uint16_t *)(w + 32), least, 16);
    for (int j = 0; j < 4; j++)
      for (int i = 0; i < 64; i++) {
        body[128 * j + i] = w[64 + 64 * j + i] & 15;
        body[128 * j + 64 + i] = w[64 + 64 * j + i] >> 4;
      }
    for (int t = 0; t < tokens; t++) {
      i64 at = (i64)(token + t) * groups + g;
      const int8_t *q = in->bytes + (i64)(token + t) * width + g * GROUP;
      int32_t sum[16] = {0};
      for (int j = 0; j < 8; j++) quads(body + 64 * j, q + 4 * j, 0, sum);
      for (int r = 0; r < 16; r++)
        out[16 * t + r] += in->scales[at] * (scale[r] * (float)sum[r] + least[r] * in->sums[at]);
    }
  }
}
#endif

PANEL_FUNCTION panel(int kind, const uint8_t *w, struct inputs *in, int token, int width,
                     float *out, const int tokens) {
  if (kind == FP32) panel_fp32(w, in, token, width, out, tokens);
  else if (kind == BF16) panel_bf16(w, in, token, width, out, tokens);
  else if (kind == INT8) panel_int8(w, in, token, width, out, tokens);
  else panel_int4(w, in, token, width, out, tokens);
}

/* out[token, row] for this thread's rows; stride is the distance of tokens in out. Tokens go in
 * pieces whose activations stay in the nearest cache while panel after panel passes. */
static void multiply(int kind, const uint8_t *w, int rows, int columns, struct inputs *in,
                     int tokens, float *out, int stride, int thread, int threads) {
  int width = padded(columns), first, last;
  i64 step = panel_bytes(kind, columns);
  float sums[8 * 16];
  part_of((rows + PANEL - 1) / PANEL, thread, threads, &first, &last);
  for (int p = first; p < last; p++) {
    int count = rows - p * PANEL < PANEL ? rows - p * PANEL : PANEL;
    for (int t = 0, now; t < tokens; t += now) {
      if (tokens - t >= 8) { now = 8; panel(kind, w + p * step, in, t, width, sums, 8); }
      else if (tokens - t >= 4) { now = 4; panel(kind, w + p * step, in, t, width, sums, 4); }
      else { now = 1; panel(kind, w + p * step, in, t, width, sums, 1); }
      for (int i = 0; i < now; i++)
        memcpy(out + (i64)(t + i) * stride + p * PANEL, sums + 16 * i, count * sizeof(float));
    }
  }
}

/* ---- blocks -------------------------------------------------------------------------------- */

/* Memory for one block's passing values, laid out by scratch_bytes. */
struct scratch { struct inputs in; float *rows; float *scores; };

/* Sizes of one rank's part of a model. Mirrored by a ctypes structure: keep the two alike. */
struct sizes {
  int32_t hidden, heads, kv_heads, head_size, columns, group, phase, context, window, tokens;
  int32_t half_cache;
  float epsilon;
  const float *turns; /* context x head_size / 2 x (cosine, sine) */
};

static int widest(const struct sizes *s) {
  int a = s->hidden, b = s->heads * s->head_size;
  int most = a > b ? a : b;
  return padded(most > s->columns ? most : s->columns);
}

static int most_rows(const struct sizes *s) {
  int a = (s->heads + 2 * s->kv_heads) * s->head_size, b = 2 * s->columns;
  return aligned(a > b ? a : b);
}

static i64 round_up(i64 bytes) { return (bytes + 63) / 64 * 64; }

static i64 lay(const struct sizes *s, int threads, char *base, struct scratch *out) {
  i64 width = widest(s), at = 0, tokens = s->tokens;
  out->in.values = (float *)(base + at); at += round_up(tokens * width * 4);
  out->in.bytes = (int8_t *)(base + at); at += round_up(tokens * width);
  out->in.scales = (float *)(base + at); at += round_up(tokens * width / GROUP * 4);
  out->in.sums = (float *)(base + at); at += round_up(tokens * width / GROUP * 4);
  out->rows = (float *)(base + at); at += round_up(tokens * most_rows(s) * 4);
  out->scores = (float *)(base + at); at += round_up((i64)threads * (s->context + 1024) * 4);
  return at;
}

i64 scratch_bytes(const struct sizes *s, int threads) {
  struct scratch unused;
  return lay(s, threads, NULL, &unused);
}

struct attention_at { i64 norm, qkv, bias, query_norm, key_norm, out; };
struct feed_forward_at { i64 norm, gate_up, down; };

struct call {
  const struct sizes *s;
  const char *base, *scratch;
  const void *at;
  const float *hidden;
  float *out;
  char *keys, *values;
  int kind, tokens, position, rows;
  struct scratch room;
};

/* Normed activations of some tokens as a matrix's inputs; each thread takes its tokens. */
static void prepare(struct call *c, const float *weight, int thread, struct team *team) {
  int width = padded(c->s->hidden), hidden = c->s->hidden, first, last;
  part_of(c->tokens, thread, team->count, &first, &last);
  for (int t = first; t < last; t++) {
    float *row = c->room.in.values + (i64)t * width;
    normalise(c->hidden + (i64)t * hidden, weight, row, hidden, c->s->epsilon);
    memset(row + hidden, 0, (width - hidden) * sizeof(float));
    if (is_integer(c->kind)) round_row(&c->room.in, t, width);
  }
  meet(team);
}

/* Rotate the two halves of a head against each other (arXiv:2104.09864, as transformers does). */
static void turn(float *head, const float *turns, int size) {
  int half = size / 2;
  for (int i = 0; i < half; i++) {
    float a = head[i], b = head[i + half], cosine = turns[2 * i], sine = turns[2 * i + 1];
    head[i] = a * cosine - b * sine;
    head[i + half] = b * cosine + a * sine;
  }
}

static inline i64 cache_at(const struct sizes *s, int head, int position) {
  return ((i64)head * s->context + position) * s->head_size * (s->half_cache ? 2 : 4);
}

static void keep(const struct sizes *s, char *cache, int head, int position, const float *row) {
  char *to = cache + cache_at(s, head, position);
  if (s->half_cache) narrow(row, (uint16_t *)to, s->head_size);
  else memcpy(to, row, s->head_size * sizeof(float));
}

/* Biases, norms per head, angles; keys and values into the cache. One item is a token's head. */
static void place(struct call *c, int thread, struct team *team) {
  const struct sizes *s = c->s;
  const struct attention_at *at = c->at;
  int size = s->head_size, each = s->heads + 2 * s->kv_heads, stride = aligned(each * size);
  int first, last;
  part_of(c->tokens * each, thread, team->count, &first, &last);
  for (int item = first; item < last; item++) {
    int t = item / each, h = item % each, position = c->position + t;
    int key = h >= s->heads, value = h >= s->heads + s->kv_heads;
    float *row = c->room.rows + (i64)t * stride + (i64)h * size;
    if (at->bias >= 0) {
      const float *bias = (const float *)(c->base + at->bias) + (i64)h * size;
      for (int i = 0; i < size; i++) row[i] += bias[i];
    }
    i64 norm = key ? at->key_norm : at->query_norm;
    if (!value && norm >= 0)
      normalise(row, (const float *)(c->base + norm), row, size, s->epsilon);
    if (!value) turn(row, s->turns + (i64)position * size, size);
    if (value) keep(s, c->values, h - s->heads - s->kv_heads, position, row);
    else if (key) keep(s, c->keys, h - s->heads, position, row);
  }
  meet(team);
}

/* One query head of one token over what it may see. */
static void attend(struct call *c, int t, int h, float *scores) {
  const struct sizes *s = c->s;
  int size = s->head_size, position = c->position + t, kv = (h + s->phase) / s->group;
  int start = s->window && position + 1 > s->window ? position + 1 - s->window : 0;
  int stride = aligned((s->heads + 2 * s->kv_heads) * size), width = padded(s->heads * size);
  const float *query = c->room.rows + (i64)t * stride + (i64)h * size;
  float *out = c->room.in.values + (i64)t * width + (i64)h * size;
  float *row = scores + s->context, scale = 1.0f / sqrtf((float)size), most = -INFINITY, total = 0;
  for (int p = start; p <= position; p++) {
    const char *at = c->keys + cache_at(s, kv, p);
    if (s->half_cache) widen((const uint16_t *)at, row, size);
    float score = dot(query, s->half_cache ? row : (const float *)at, size) * scale;
    scores[p] = score;
    most = score > most ? score : most;
  }
  for (int p = start; p <= position; p++) { scores[p] = exp_of(scores[p] - most); total += scores[p]; }
  for (int i = 0; i < size; i++) out[i] = 0;
  for (int p = start; p <= position; p++) {
    const char *at = c->values + cache_at(s, kv, p);
    if (s->half_cache) widen((const uint16_t *)at, row, size);
    const float *value = s->half_cache ? row : (const float *)at;
    float part = scores[p] / total;
    for (int i = 0; i < size; i++) out[i] += part * value[i];
  }
}

static void round_inputs(struct call *c, int columns, int thread, struct team *team) {
  int width = padded(columns), first, last;
  meet(team);
  part_of(c->tokens, thread, team->count, &first, &last);
  for (int t = first; t < last; t++) {
    float *row = c->room.in.values + (i64)t * width;
    memset(row + columns, 0, (width - columns) * sizeof(float));
    if (is_integer(c->kind)) round_row(&c->room.in, t, width);
  }
  meet(team);
}

static void attention_task(void *argument, int thread, struct team *team) {
  struct call *c = argument;
  const struct sizes *s = c->s;
  const struct attention_at *at = c->at;
  int rows = (s->heads + 2 * s->kv_heads) * s->head_size, first, last;
  float *scores = c->room.scores + (i64)thread * (s->context + 1024);
  prepare(c, (const float *)(c->base + at->norm), thread, team);
  multiply(c->kind, (const uint8_t *)c->base + at->qkv, rows, s->hidden, &c->room.in, c->tokens,
           c->room.rows, aligned(rows), thread, team->count);
  meet(team);
  place(c, thread, team);
  part_of(c->tokens * s->heads, thread, team->count, &first, &last);
  for (int item = first; item < last; item++) attend(c, item / s->heads, item % s->heads, scores);
  round_inputs(c, s->heads * s->head_size, thread, team);
  multiply(c->kind, (const uint8_t *)c->base + at->out, s->hidden, s->heads * s->head_size,
           &c->room.in, c->tokens, c->out, s->hidden, thread, team->count);
}

static void feed_forward_task(void *argument, int thread, struct team *team) {
  struct call *c = argument;
  const struct sizes *s = c->s;
  const struct feed_forward_at *at = c->at;
  int columns = s->columns, stride = aligned(2 * columns), width = padded(columns), first, last;
  prepare(c, (const float *)(c->base + at->norm), thread, team);
  multiply(c->kind, (const uint8_t *)c->base + at->gate_up, 2 * columns, s->hidden, &c->room.in,
           c->tokens, c->room.rows, stride, thread, team->count);
  meet(team);
  part_of(columns, thread, team->count, &first, &last);
  for (int t = 0; t < c->tokens; t++) {
    const float *gate = c->room.rows + (i64)t * stride, *up = gate + columns;
    float *row = c->room.in.values + (i64)t * width;
    for (int i = first; i < last; i++) row[i] = gate[i] / (1.0f + exp_of(-gate[i])) * up[i];
  }
  round_inputs(c, columns, thread, team);
  multiply(c->kind, (const uint8_t *)c->base + at->down, s->hidden, columns, &c->room.in, c->tokens,
           c->out, s->hidden, thread, team->count);
}

static void head_task(void *argument, int thread, struct team *team) {
  struct call *c = argument;
  multiply(c->kind, (const uint8_t *)c->base, c->rows, c->s->hidden, &c->room.in, 1, c->out,
           c->rows, thread, team->count);
}

void attention(struct team *team, const struct sizes *s, const struct attention_at *at, int kind,
               const char *base, char *scratch, const float *hidden, float *out, char *keys,
               char *values, int tokens, int position) {
  struct call c = {.s = s, .base = base, .at = at, .hidden = hidden, .out = out, .keys = keys,
                   .values = values, .kind = kind, .tokens = tokens, .position = position};
  lay(s, team->count, scratch, &c.room);
  work(team, attention_task, &c);
}

void feed_forward(struct team *team, const struct sizes *s, const struct feed_forward_at *at,
                  int kind, const char *base, char *scratch, const float *hidden, float *out,
                  int tokens) {
  struct call c = {.s = s, .base = base, .at = at, .hidden = hidden, .out = out, .kind = kind,
                   .tokens = tokens};
  lay(s, team->count, scratch, &c.room);
  work(team, feed_forward_task, &c);
}

/* A slice of the head for one token, whose activations are normed already. */
void head(struct team *team, const struct sizes *s, int kind, const char *matrix, int rows,
          char *scratch, const float *hidden, float *out) {
  struct call c = {.s = s, .base = matrix, .out = out, .kind = kind, .tokens = 1, .rows = rows};
  lay(s, team->count, scratch, &c.room);
  int width = padded(s->hidden);
  memcpy(c.room.in.values, hidden, s->hidden * sizeof(float));
  memset(c.room.in.values + s->hidden, 0, (width - s->hidden) * sizeof(float));
  if (is_integer(kind)) round_row(&c.room.in, 0, width);
  work(team, head_task, &c);
}
