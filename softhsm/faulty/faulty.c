/*
 * A PKCS#11 module that stands in front of another one and misbehaves as it is told.
 *
 * Every function of PKCS#11 v2.40 is forwarded to the module that KEYSLOT_FAULTY_MODULE names. On the way a call
 * is counted, held against the rules of the control file, and bent by the quirks of a device. README.md says how
 * it is steered; the folder that KEYSLOT_FAULTY_DIR names holds both files:
 *
 *   control  text, replaced as a whole by whoever steers
 *   state    mapped into every process that loads the module: counters, and what a device would remember
 *
 * Section numbers are those of PKCS#11 v3.1.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define CK_PTR *
#include "pkcs11.h"

/* Of PKCS#11 v3.x (§6.3), which the header does not have. */
#define CKM_EC_EDWARDS_KEY_PAIR_GEN 0x1055UL

/* ---- The functions by number, in the order of the header ------------------------------------------------ */

enum function {
#define CK_PKCS11_FUNCTION_INFO(name) FN_##name,
#include "pkcs11f.h"
#undef CK_PKCS11_FUNCTION_INFO
  FN_COUNT
};

static const char *const function_names[] = {
#define CK_PKCS11_FUNCTION_INFO(name) #name,
#include "pkcs11f.h"
#undef CK_PKCS11_FUNCTION_INFO
};

_Static_assert(FN_COUNT == 68, "PKCS#11 v2.40 has 68 functions");

/* ---- The state that all processes share; test/engines/pkcs11/faulty/state.ts reads the same layout ------- */

enum { RULES_MAX = 4096, TOKENS_MAX = 16, FUNCTIONS_ROOM = 80 };

struct token_state {
  char label[32];
  _Atomic uint64_t attempts; /* PINs that the token looked at */
  _Atomic uint64_t wrong;
  _Atomic uint64_t failures; /* wrong ones since the last right one */
  _Atomic uint64_t claimed;
};

struct state {
  _Atomic uint64_t generation; /* written by whoever steers, after the control file */
  _Atomic uint64_t log_entries;
  _Atomic uint64_t objects;
  _Atomic uint64_t hangs;      /* calls that began to hang */
  _Atomic uint64_t inside_max; /* calls that were in the module at the same time */
  _Atomic uint64_t throttle;   /* number of the window, and the calls in it in the low 24 bits */
  uint64_t reserved[2];
  struct token_state tokens[TOKENS_MAX];
  struct {
    char name[40];
    _Atomic uint64_t calls;
  } functions[FUNCTIONS_ROOM];
  struct {
    _Atomic uint64_t matched;
    _Atomic uint64_t fired;
  } rules[RULES_MAX];
};

_Static_assert(sizeof(struct state) == 64 + 16 * 64 + 80 * 48 + 4096 * 16, "the layout is read by others");

static struct state no_state; /* of a module that nobody steers */
static struct state *_Atomic state = &no_state;

/* ---- What the control file says -------------------------------------------------------------------------- */

enum effect {
  ANSWER, LATENCY, HANG, CRASH, CORRUPT, FOREIGN_MESSAGE, WRONG_KEY, LOSE_SESSIONS, LOSE_LOGIN, STALE_OBJECTS,
  DEVICE_GONE, MISSING, EFFECT_COUNT
};

static const char *const effect_names[] = {
  "answer", "latency", "hang", "crash", "corrupt", "foreign-message", "wrong-key", "lose-sessions", "lose-login",
  "stale-objects", "device-gone", "missing"
};

enum { SCRIPT_MAX = 256 };

struct rule {
  unsigned id;
  uint64_t functions[2]; /* a bit for each */
  enum effect effect;
  bool after; /* the wrapped module is called first */
  uint64_t skip, times, seed, ms;
  double probability;
  CK_RV code;
  CK_RV script[SCRIPT_MAX];
  size_t script_length;
  char token[33]; /* label; empty for any */
};

/* Something that happens once in every process that is initialised at the time. */
struct event {
  uint64_t number;
  enum effect effect;
  CK_RV code;
  char token[33];
};

/* A token that is not there. */
struct absence {
  CK_RV code;
  char token[33];
};

struct quirks {
  CK_ULONG strict_templates, printable_curve, token_objects, no_slot_events, read_write_only, device_iv,
    documented_attributes, edwards_by_ec, no_private_import, point_on_private, raw_point, parallel, log_max,
    objects_max, throttle_calls, throttle_ms, available_ms, pin_limit, pin_flags;
};

static const struct {
  const char *name;
  size_t offset;
} quirk_names[] = {
#define QUIRK(name, field) {name, offsetof(struct quirks, field)}
  QUIRK("strict-templates", strict_templates), QUIRK("printable-curve", printable_curve),
  QUIRK("token-objects", token_objects), QUIRK("no-slot-events", no_slot_events),
  QUIRK("read-write-only", read_write_only), QUIRK("device-iv", device_iv),
  QUIRK("documented-attributes", documented_attributes), QUIRK("edwards-by-ec", edwards_by_ec),
  QUIRK("no-private-import", no_private_import), QUIRK("point-on-private", point_on_private),
  QUIRK("raw-point", raw_point), QUIRK("parallel", parallel), QUIRK("log-max", log_max),
  QUIRK("objects-max", objects_max), QUIRK("throttle-calls", throttle_calls), QUIRK("throttle-ms", throttle_ms),
  QUIRK("available-ms", available_ms), QUIRK("pin-limit", pin_limit), QUIRK("pin-flags", pin_flags)
#undef QUIRK
};

enum { ACTIVE_RULES_MAX = 64, EVENTS_MAX = 64, ABSENCES_MAX = 8, MASKED_MAX = 64 };

struct control {
  unsigned references;
  uint64_t generation;
  size_t rule_count, event_count, absence_count, masked_count;
  struct rule rules[ACTIVE_RULES_MAX];
  struct event events[EVENTS_MAX];
  struct absence absences[ABSENCES_MAX];
  CK_MECHANISM_TYPE masked[MASKED_MAX];
  struct quirks quirks;
};

/* ---- What this process knows ----------------------------------------------------------------------------- */

enum { SESSIONS_MAX = 16384, SLOTS_MAX = 256, CREATED_MAX = 256 };

struct session {
  CK_SESSION_HANDLE handle;
  CK_SLOT_ID slot;
  bool dead; /* closed beneath its owner */
  CK_BYTE iv[12];
  CK_BYTE_PTR iv_out; /* where the caller waits for the IV that the device made */
};

struct slot {
  CK_SLOT_ID id;
  bool login_lost;
  bool missing; /* until the module is initialised again */
};

static CK_FUNCTION_LIST_PTR inner;
/* Held to read while the wrapped module runs, and to write while sessions and logins are taken away. */
static pthread_rwlock_t inner_lock = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;

static pthread_mutex_t control_lock = PTHREAD_MUTEX_INITIALIZER;
static struct control *control; /* the one in force */
static uint64_t events_seen;
static char folder[4096];
static _Atomic bool initialized;

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static struct session sessions[SESSIONS_MAX];
static size_t session_count;
static struct slot slots[SLOTS_MAX];
static size_t slot_count;
static struct {
  CK_OBJECT_HANDLE handle;
  uint64_t at_ms;
} created[CREATED_MAX];
static size_t created_count;

static _Atomic CK_RV device_gone;        /* what everything is answered until C_Finalize */
static _Atomic uint64_t object_epoch;    /* handles of an earlier one are stale */

static pthread_mutex_t parallel_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t parallel_freed = PTHREAD_COND_INITIALIZER;
static CK_ULONG parallel_busy;
static _Atomic uint64_t inside;

/* A mistake in steering must not pass for a device that works. */
__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("keyslot-faulty: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  abort();
}

static uint64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void sleep_ms(uint64_t ms) {
  struct timespec left = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
  while (nanosleep(&left, &left) == -1 && errno == EINTR) continue;
}

/* ---- Reading the control file ---------------------------------------------------------------------------- */

static uint64_t number_of(const char *text) {
  char *end;
  const uint64_t value = strtoull(text, &end, 0);
  if (end == text || *end) die("\"%s\" is not a number", text);
  return value;
}

static enum effect effect_of(const char *name) {
  for (int at = 0; at < EFFECT_COUNT; at += 1) if (strcmp(name, effect_names[at]) == 0) return (enum effect)at;
  die("there is no effect \"%s\"", name);
}

static void functions_of(char *names, uint64_t bits[2]) {
  if (strcmp(names, "*") == 0) {
    bits[0] = bits[1] = ~(uint64_t)0;
    return;
  }
  char *place;
  for (char *name = strtok_r(names, ",", &place); name; name = strtok_r(NULL, ",", &place)) {
    int at = 0;
    while (at < FN_COUNT && strcmp(name, function_names[at]) != 0) at += 1;
    if (at == FN_COUNT) die("there is no function \"%s\"", name);
    bits[at / 64] |= (uint64_t)1 << (at % 64);
  }
}

/* "name=value", or the end of it. */
static const char *value_of(const char *word, const char *name) {
  const size_t length = strlen(name);
  return strncmp(word, name, length) == 0 && word[length] == '=' ? word + length + 1 : NULL;
}

static void label_of(const char *text, char label[33]) {
  if (strlen(text) > 32) die("\"%s\" is too long for a label", text);
  strcpy(label, text);
}

static void parse_rule(struct rule *rule, char *rest) {
  char *place;
  const char *id = strtok_r(rest, " ", &place);
  char *functions = strtok_r(NULL, " ", &place);
  const char *effect = strtok_r(NULL, " ", &place);
  if (!id || !functions || !effect) die("a rule needs a number, functions and an effect");
  *rule = (struct rule){.times = UINT64_MAX, .probability = 1};
  rule->id = (unsigned)number_of(id);
  if (rule->id >= RULES_MAX) die("rule %s is one too many", id);
  functions_of(functions, rule->functions);
  rule->effect = effect_of(effect);
  for (char *word = strtok_r(NULL, " ", &place); word; word = strtok_r(NULL, " ", &place)) {
    const char *value;
    if ((value = value_of(word, "code"))) rule->code = number_of(value);
    else if ((value = value_of(word, "ms"))) rule->ms = number_of(value);
    else if ((value = value_of(word, "skip"))) rule->skip = number_of(value);
    else if ((value = value_of(word, "times"))) rule->times = number_of(value);
    else if ((value = value_of(word, "seed"))) rule->seed = number_of(value);
    else if ((value = value_of(word, "p"))) rule->probability = strtod(value, NULL);
    else if ((value = value_of(word, "when"))) rule->after = strcmp(value, "after") == 0;
    else if ((value = value_of(word, "token"))) label_of(value, rule->token);
    else if ((value = value_of(word, "script"))) {
      char *codes = word + strlen("script="), *inside_script;
      for (char *code = strtok_r(codes, ",", &inside_script); code; code = strtok_r(NULL, ",", &inside_script)) {
        if (rule->script_length == SCRIPT_MAX) die("a script is too long");
        rule->script[rule->script_length++] = number_of(code);
      }
    } else die("a rule has no \"%s\"", word);
  }
}

static void parse_event(struct event *event, char *rest) {
  char *place;
  const char *number = strtok_r(rest, " ", &place);
  const char *effect = strtok_r(NULL, " ", &place);
  if (!number || !effect) die("an event needs a number and an effect");
  *event = (struct event){.number = number_of(number), .effect = effect_of(effect)};
  for (char *word = strtok_r(NULL, " ", &place); word; word = strtok_r(NULL, " ", &place)) {
    const char *value;
    if ((value = value_of(word, "code"))) event->code = number_of(value);
    else if ((value = value_of(word, "token"))) label_of(value, event->token);
    else die("an event has no \"%s\"", word);
  }
}

static void parse_absence(struct absence *absence, char *rest) {
  char *place;
  *absence = (struct absence){.code = CKR_DEVICE_REMOVED};
  for (char *word = strtok_r(rest, " ", &place); word; word = strtok_r(NULL, " ", &place)) {
    const char *value;
    if ((value = value_of(word, "code"))) absence->code = number_of(value);
    else if ((value = value_of(word, "token"))) label_of(value, absence->token);
    else die("an absence has no \"%s\"", word);
  }
}

static void parse_quirk(struct quirks *quirks, char *rest) {
  char *place;
  const char *name = strtok_r(rest, " ", &place);
  const char *value = strtok_r(NULL, " ", &place);
  if (!name || !value) die("a quirk needs a name and a value");
  for (size_t at = 0; at < sizeof quirk_names / sizeof *quirk_names; at += 1) {
    if (strcmp(name, quirk_names[at].name) != 0) continue;
    *(CK_ULONG *)((char *)quirks + quirk_names[at].offset) = number_of(value);
    return;
  }
  die("there is no quirk \"%s\"", name);
}

static size_t next(size_t *count, size_t max) {
  if (*count == max) die("too many lines of a kind");
  return (*count)++;
}

static void parse_line(struct control *read, char *line) {
  char *rest = strchr(line, ' ');
  if (!rest) rest = line + strlen(line);
  else *rest++ = '\0';
  if (*line == '\0') return;
  if (strcmp(line, "rule") == 0) parse_rule(&read->rules[next(&read->rule_count, ACTIVE_RULES_MAX)], rest);
  else if (strcmp(line, "event") == 0) parse_event(&read->events[next(&read->event_count, EVENTS_MAX)], rest);
  else if (strcmp(line, "absent") == 0) parse_absence(&read->absences[next(&read->absence_count, ABSENCES_MAX)], rest);
  else if (strcmp(line, "quirk") == 0) parse_quirk(&read->quirks, rest);
  else if (strcmp(line, "mask") == 0) read->masked[next(&read->masked_count, MASKED_MAX)] = number_of(rest);
  else die("the control file has no \"%s\"", line);
}

static struct control *read_control(uint64_t generation) {
  struct control *read = calloc(1, sizeof *read);
  if (!read) die("no memory");
  read->references = 1;
  read->generation = generation;
  if (*folder == '\0') return read;
  char path[sizeof folder + 16];
  snprintf(path, sizeof path, "%s/control", folder);
  FILE *file = fopen(path, "re");
  if (!file && errno == ENOENT) return read; /* whoever steered has gone */
  if (!file) die("cannot read %s", path);
  char *line = NULL;
  size_t room = 0;
  while (getline(&line, &room, file) != -1) {
    line[strcspn(line, "\n")] = '\0';
    parse_line(read, line);
  }
  free(line);
  fclose(file);
  return read;
}

/* ---- Slots and sessions ---------------------------------------------------------------------------------- */

static struct session *find_session(CK_SESSION_HANDLE handle) {
  for (size_t at = session_count; at-- > 0;) if (sessions[at].handle == handle) return &sessions[at];
  return NULL;
}

static void add_session(CK_SESSION_HANDLE handle, CK_SLOT_ID slot) {
  pthread_mutex_lock(&table_lock);
  if (session_count == SESSIONS_MAX) die("too many sessions");
  sessions[session_count++] = (struct session){.handle = handle, .slot = slot};
  pthread_mutex_unlock(&table_lock);
}

static void remove_session(CK_SESSION_HANDLE handle) {
  pthread_mutex_lock(&table_lock);
  struct session *session = find_session(handle);
  if (session) *session = sessions[--session_count];
  pthread_mutex_unlock(&table_lock);
}

/* The table is locked by the caller. */
static struct slot *slot_entry(CK_SLOT_ID id) {
  for (size_t at = 0; at < slot_count; at += 1) if (slots[at].id == id) return &slots[at];
  if (slot_count == SLOTS_MAX) die("too many slots");
  slots[slot_count] = (struct slot){.id = id};
  return &slots[slot_count++];
}

/* The label of the token in a slot without its padding; inner_lock is held. */
static void slot_label(CK_SLOT_ID slot, char label[33]) {
  CK_TOKEN_INFO info;
  label[0] = '\0';
  if (inner->C_GetTokenInfo(slot, &info) != CKR_OK) return;
  memcpy(label, info.label, 32);
  size_t length = 32;
  while (length > 0 && label[length - 1] == ' ') length -= 1;
  label[length] = '\0';
}

static bool is_token(CK_SLOT_ID slot, const char *wanted) {
  if (*wanted == '\0') return true;
  char label[33];
  slot_label(slot, label);
  return strcmp(label, wanted) == 0;
}

/* ---- Taking things away; inner_lock is held to write ----------------------------------------------------- */

static void mark_lost(CK_SLOT_ID slot, bool sessions_too) {
  pthread_mutex_lock(&table_lock);
  slot_entry(slot)->login_lost = true;
  for (size_t at = 0; sessions_too && at < session_count; at += 1) {
    if (sessions[at].slot == slot) sessions[at].dead = true;
  }
  pthread_mutex_unlock(&table_lock);
}

/* §5.6.3: with its last session an application loses the login as well. */
static void lose_sessions(CK_SLOT_ID slot) {
  inner->C_CloseAllSessions(slot);
  mark_lost(slot, true);
}

static void lose_login(CK_SLOT_ID slot) {
  pthread_mutex_lock(&table_lock);
  CK_SESSION_HANDLE any = CK_INVALID_HANDLE;
  for (size_t at = 0; at < session_count; at += 1) {
    if (sessions[at].slot == slot && !sessions[at].dead) any = sessions[at].handle;
  }
  pthread_mutex_unlock(&table_lock);
  if (any == CK_INVALID_HANDLE || inner->C_Logout(any) != CKR_OK) return;
  mark_lost(slot, false);
}

static void lose_token(CK_SLOT_ID slot) {
  lose_sessions(slot);
  pthread_mutex_lock(&table_lock);
  slot_entry(slot)->missing = true;
  pthread_mutex_unlock(&table_lock);
}

static void for_slots(const char *token, void (*work)(CK_SLOT_ID)) {
  CK_SLOT_ID ids[SLOTS_MAX];
  CK_ULONG count = SLOTS_MAX;
  if (inner->C_GetSlotList(CK_TRUE, ids, &count) != CKR_OK) return;
  for (CK_ULONG at = 0; at < count; at += 1) if (is_token(ids[at], token)) work(ids[at]);
}

static void take_away(enum effect effect, CK_RV code, const char *token) {
  pthread_rwlock_wrlock(&inner_lock);
  if (effect == LOSE_SESSIONS) for_slots(token, lose_sessions);
  else if (effect == LOSE_LOGIN) for_slots(token, lose_login);
  else if (effect == MISSING) for_slots(token, lose_token);
  else if (effect == STALE_OBJECTS) object_epoch += 1;
  else if (effect == DEVICE_GONE) device_gone = code ? code : CKR_DEVICE_ERROR;
  else die("\"%s\" is not an event", effect_names[effect]);
  pthread_rwlock_unlock(&inner_lock);
}

/* ---- The control in force -------------------------------------------------------------------------------- */

static void release(struct control *held) {
  if (--held->references == 0) free(held);
}

/* Reads the control file anew when it has changed, and lets happen what is new in it. control_lock is held. */
static void refresh(void) {
  const uint64_t generation = state->generation;
  if (control && control->generation == generation) return;
  if (control) release(control);
  control = read_control(generation);
  for (size_t at = 0; at < control->event_count; at += 1) {
    const struct event *event = &control->events[at];
    if (event->number <= events_seen) continue;
    events_seen = event->number;
    if (initialized) take_away(event->effect, event->code, event->token);
  }
}

static struct control *acquire_control(void) {
  pthread_mutex_lock(&control_lock);
  refresh();
  struct control *held = control;
  held->references += 1;
  pthread_mutex_unlock(&control_lock);
  return held;
}

static void release_control(struct control *held) {
  pthread_mutex_lock(&control_lock);
  release(held);
  pthread_mutex_unlock(&control_lock);
}

static bool rule_in_force(unsigned id) {
  struct control *held = acquire_control();
  bool found = false;
  for (size_t at = 0; at < held->rule_count; at += 1) found = found || held->rules[at].id == id;
  release_control(held);
  return found;
}

/* ---- Loading the wrapped module -------------------------------------------------------------------------- */

static const char *inner_path(void) {
  const char *named = getenv("KEYSLOT_FAULTY_MODULE");
  if (named && *named) return named;
  static const char *const usual[] = {
    "/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so"
  };
  for (size_t at = 0; at < sizeof usual / sizeof *usual; at += 1) if (access(usual[at], R_OK) == 0) return usual[at];
  return usual[0];
}

static CK_FUNCTION_LIST_PTR load_inner(void) {
  void *library = dlopen(inner_path(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    fprintf(stderr, "keyslot-faulty: %s\n", dlerror());
    return NULL;
  }
  CK_C_GetFunctionList list_of;
  *(void **)&list_of = dlsym(library, "C_GetFunctionList");
  CK_FUNCTION_LIST_PTR list;
  return list_of && list_of(&list) == CKR_OK ? list : NULL;
}

static struct state *map_state(void) {
  const char *named = getenv("KEYSLOT_FAULTY_DIR");
  if (!named || !*named) return &no_state;
  if (strlen(named) >= sizeof folder) die("KEYSLOT_FAULTY_DIR is too long");
  strcpy(folder, named);
  char path[sizeof folder + 16];
  snprintf(path, sizeof path, "%s/state", folder);
  const int file = open(path, O_RDWR | O_CLOEXEC);
  if (file == -1) die("cannot open %s", path);
  struct state *mapped = mmap(NULL, sizeof *mapped, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (mapped == MAP_FAILED) die("cannot map %s", path);
  for (int at = 0; at < FN_COUNT; at += 1) strncpy(mapped->functions[at].name, function_names[at], 39);
  return mapped;
}

/* Before C_Initialize of a module that is not initialised. An earlier map stays: a call may still hang in it. */
static bool attach(void) {
  pthread_mutex_lock(&control_lock);
  if (!initialized) {
    if (!inner) inner = load_inner();
    state = map_state();
    if (control) release(control);
    control = NULL;
    events_seen = 0;
    refresh(); /* what happened before does not happen to this process */
  }
  pthread_mutex_unlock(&control_lock);
  return inner != NULL;
}

static void forget_everything(void) {
  pthread_mutex_lock(&table_lock);
  session_count = slot_count = created_count = 0;
  pthread_mutex_unlock(&table_lock);
  device_gone = CKR_OK;
}

/* ---- A call ---------------------------------------------------------------------------------------------- */

struct call {
  enum function function;
  struct control *control;
  CK_SESSION_HANDLE session;
  CK_SLOT_ID slot;
  bool has_slot, locked, counted, serial;
  bool corrupt, foreign, wrong_key, crash_after;
  CK_RV answer_after;
  CK_RV stale; /* what to answer because a handle is of an earlier epoch */
};

static const struct quirks *quirks_of(const struct call *call) { return &call->control->quirks; }

static uint64_t mixed(uint64_t value) { /* splitmix64 */
  value += 0x9e3779b97f4a7c15;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

/* Whether a rule fires depends on how often it was met and on nothing else, whichever process met it. */
static bool fires(const struct rule *rule, uint64_t met) {
  if (met < rule->skip || met - rule->skip >= rule->times) return false;
  if (rule->script_length > 0) return met - rule->skip < rule->script_length;
  if (rule->probability >= 1) return true;
  return (double)(mixed(rule->seed ^ mixed(met)) >> 11) * 0x1p-53 < rule->probability;
}

__attribute__((noreturn)) static void crash(void) {
  signal(SIGSEGV, SIG_DFL);
  raise(SIGSEGV);
  abort();
}

/* No lock is held meanwhile: others go on, and the control can be changed. */
static void hang(unsigned id) {
  state->hangs += 1;
  while (rule_in_force(id)) sleep_ms(2);
}

/* CKR_OK when the call goes on. */
static CK_RV obey(struct call *call, const struct rule *rule, uint64_t met) {
  switch (rule->effect) {
    case ANSWER: {
      const CK_RV code = rule->script_length > 0 ? rule->script[met - rule->skip] : rule->code;
      if (rule->after) call->answer_after = code;
      return rule->after ? CKR_OK : code;
    }
    case LATENCY: sleep_ms(rule->ms); return CKR_OK;
    case HANG: hang(rule->id); return rule->code;
    case CRASH:
      if (!rule->after) crash();
      call->crash_after = true;
      return CKR_OK;
    case CORRUPT: call->corrupt = true; return CKR_OK;
    case FOREIGN_MESSAGE: call->foreign = true; return CKR_OK;
    case WRONG_KEY: call->wrong_key = true; return CKR_OK;
    default: take_away(rule->effect, rule->code, rule->token); return CKR_OK;
  }
}

static bool concerns(const struct call *call, const struct rule *rule) {
  if (!(rule->functions[call->function / 64] >> (call->function % 64) & 1)) return false;
  if (*rule->token == '\0') return true;
  if (!call->has_slot) return false;
  pthread_rwlock_rdlock(&inner_lock);
  const bool same = is_token(call->slot, rule->token);
  pthread_rwlock_unlock(&inner_lock);
  return same;
}

static CK_RV obey_rules(struct call *call) {
  for (size_t at = 0; at < call->control->rule_count; at += 1) {
    const struct rule *rule = &call->control->rules[at];
    if (!concerns(call, rule)) continue;
    const uint64_t met = atomic_fetch_add(&state->rules[rule->id].matched, 1);
    if (!fires(rule, met)) continue;
    atomic_fetch_add(&state->rules[rule->id].fired, 1);
    const CK_RV rv = obey(call, rule, met);
    if (rv != CKR_OK) return rv;
  }
  return CKR_OK;
}

/* Functions that a token serves only to who is logged in (§5.6.8). */
static bool needs_login(enum function function) {
  switch (function) {
    case FN_C_Sign: case FN_C_SignInit: case FN_C_Encrypt: case FN_C_EncryptInit: case FN_C_Decrypt:
    case FN_C_DecryptInit: case FN_C_GenerateKey: case FN_C_GenerateKeyPair: case FN_C_CreateObject:
    case FN_C_DestroyObject: case FN_C_WrapKey: case FN_C_UnwrapKey: case FN_C_DeriveKey: case FN_C_Logout:
      return true;
    default: return false;
  }
}

/* Commands that a YubiHSM writes into its log and that AWS CloudHSM counts against its rate. */
static bool is_command(enum function function) {
  switch (function) {
    case FN_C_Sign: case FN_C_Encrypt: case FN_C_Decrypt: case FN_C_GenerateKey: case FN_C_GenerateKeyPair:
    case FN_C_CreateObject: case FN_C_DestroyObject: case FN_C_WrapKey: case FN_C_UnwrapKey: return true;
    default: return false;
  }
}

/* The token of a slot is not there: what that is called depends on whether a session was open (§5.2). */
static CK_RV presence(const struct call *call) {
  if (!call->has_slot) return CKR_OK;
  pthread_mutex_lock(&table_lock);
  const bool missing = slot_entry(call->slot)->missing;
  pthread_mutex_unlock(&table_lock);
  CK_RV code = missing ? CKR_DEVICE_REMOVED : CKR_OK;
  for (size_t at = 0; at < call->control->absence_count; at += 1) {
    const struct absence *absence = &call->control->absences[at];
    pthread_rwlock_rdlock(&inner_lock);
    if (is_token(call->slot, absence->token)) code = absence->code;
    pthread_rwlock_unlock(&inner_lock);
  }
  return code == CKR_OK || call->session != CK_INVALID_HANDLE ? code : CKR_TOKEN_NOT_PRESENT;
}

static bool login_lost(const struct call *call) {
  pthread_mutex_lock(&table_lock);
  const struct session *session = find_session(call->session);
  const bool lost = session && !session->dead && slot_entry(session->slot)->login_lost;
  pthread_mutex_unlock(&table_lock);
  return lost;
}

/* One session on the device serves all of PKCS#11: who comes later waits. */
static void enter_device(struct call *call) {
  const CK_ULONG room = quirks_of(call)->parallel;
  if (room > 0 && call->has_slot) {
    pthread_mutex_lock(&parallel_lock);
    while (parallel_busy >= room) pthread_cond_wait(&parallel_freed, &parallel_lock);
    parallel_busy += 1;
    pthread_mutex_unlock(&parallel_lock);
    call->serial = true;
  }
  const uint64_t now = atomic_fetch_add(&inside, 1) + 1;
  call->counted = true;
  uint64_t most = state->inside_max;
  while (now > most && !atomic_compare_exchange_weak(&state->inside_max, &most, now)) continue;
}

static void leave_device(struct call *call) {
  if (call->counted) atomic_fetch_sub(&inside, 1);
  if (!call->serial) return;
  pthread_mutex_lock(&parallel_lock);
  parallel_busy -= 1;
  pthread_cond_signal(&parallel_freed);
  pthread_mutex_unlock(&parallel_lock);
}

static CK_RV throttled(const struct quirks *quirks) {
  if (quirks->throttle_calls == 0) return CKR_OK;
  const uint64_t window = now_ms() / (quirks->throttle_ms ? quirks->throttle_ms : 1000);
  uint64_t old = state->throttle, next;
  do next = (old >> 24) == (window & 0xffffffffff) ? old + 1 : (window & 0xffffffffff) << 24 | 1;
  while (!atomic_compare_exchange_weak(&state->throttle, &old, next));
  return (next & 0xffffff) > quirks->throttle_calls ? CKR_FUNCTION_FAILED : CKR_OK;
}

static CK_RV logged(const struct quirks *quirks) {
  if (quirks->log_max == 0) return CKR_OK;
  if (atomic_fetch_add(&state->log_entries, 1) < quirks->log_max) return CKR_OK;
  atomic_fetch_sub(&state->log_entries, 1);
  return CKR_DEVICE_MEMORY;
}

static CK_RV admitted(struct call *call) {
  CK_RV rv = device_gone;
  if (call->function == FN_C_Finalize) rv = CKR_OK;
  if (rv == CKR_OK && call->function != FN_C_GetSlotInfo) rv = presence(call);
  if (rv != CKR_OK) return rv;
  enter_device(call);
  rv = obey_rules(call);
  if (rv == CKR_OK && needs_login(call->function) && login_lost(call)) rv = CKR_USER_NOT_LOGGED_IN;
  if (rv != CKR_OK || !is_command(call->function)) return rv;
  rv = throttled(quirks_of(call));
  return rv == CKR_OK ? logged(quirks_of(call)) : rv;
}

static CK_RV begin(struct call *call) {
  call->control = acquire_control();
  atomic_fetch_add(&state->functions[call->function].calls, 1);
  if (!inner) return CKR_CRYPTOKI_NOT_INITIALIZED;
  const CK_RV rv = admitted(call);
  if (rv != CKR_OK) return rv;
  pthread_rwlock_rdlock(&inner_lock);
  call->locked = true;
  return CKR_OK;
}

static CK_RV begin_general(struct call *call, enum function function) {
  *call = (struct call){.function = function};
  return begin(call);
}

static CK_RV begin_slot(struct call *call, enum function function, CK_SLOT_ID slot) {
  *call = (struct call){.function = function, .slot = slot, .has_slot = true};
  return begin(call);
}

static CK_RV begin_session(struct call *call, enum function function, CK_SESSION_HANDLE handle) {
  *call = (struct call){.function = function, .session = handle};
  pthread_mutex_lock(&control_lock);
  refresh(); /* first: it may be this session that ends now */
  pthread_mutex_unlock(&control_lock);
  pthread_mutex_lock(&table_lock);
  const struct session *session = find_session(handle);
  if (session) {
    call->has_slot = true;
    call->slot = session->slot;
  }
  pthread_mutex_unlock(&table_lock);
  return begin(call);
}

static CK_RV end(struct call *call, CK_RV rv) {
  if (call->locked) {
    pthread_rwlock_unlock(&inner_lock);
    if (call->crash_after) crash();
    if (call->stale && (rv == CKR_OBJECT_HANDLE_INVALID || rv == CKR_KEY_HANDLE_INVALID)) rv = call->stale;
    if (call->answer_after) rv = call->answer_after;
  }
  leave_device(call);
  release_control(call->control);
  return rv;
}

/* ---- Handles of objects: those of an earlier epoch are stale --------------------------------------------- */

enum { EPOCH_SHIFT = 40 };

static CK_OBJECT_HANDLE object_out(CK_OBJECT_HANDLE handle) {
  return handle == CK_INVALID_HANDLE ? handle : handle | object_epoch << EPOCH_SHIFT;
}

/* A handle that no module has, where the epoch is another. */
static CK_OBJECT_HANDLE handle_in(struct call *call, CK_OBJECT_HANDLE handle, CK_RV stale) {
  if (handle >> EPOCH_SHIFT == object_epoch) return handle & (((CK_OBJECT_HANDLE)1 << EPOCH_SHIFT) - 1);
  call->stale = stale;
  return ((CK_OBJECT_HANDLE)1 << EPOCH_SHIFT) - 2;
}

#define object_in(handle) handle_in(&call, handle, CKR_OBJECT_HANDLE_INVALID)
#define key_in(handle) handle_in(&call, handle, CKR_KEY_HANDLE_INVALID)

/* ---- Looking at objects on a session of our own; inner_lock is held -------------------------------------- */

enum { FOUND_MAX = 64 };

static CK_ULONG find_objects(CK_SLOT_ID slot, CK_ATTRIBUTE_PTR wanted, CK_ULONG length, CK_OBJECT_HANDLE found[]) {
  CK_SESSION_HANDLE session;
  CK_ULONG count = 0;
  if (inner->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &session) != CKR_OK) return 0;
  if (inner->C_FindObjectsInit(session, wanted, length) == CKR_OK) {
    if (inner->C_FindObjects(session, found, FOUND_MAX, &count) != CKR_OK) count = 0;
    inner->C_FindObjectsFinal(session);
  }
  inner->C_CloseSession(session);
  return count;
}

/* Some other private key of the same token, or the one that was asked for when it has no other. */
static CK_OBJECT_HANDLE another_key(CK_SLOT_ID slot, CK_OBJECT_HANDLE key) {
  CK_OBJECT_CLASS class = CKO_PRIVATE_KEY;
  CK_ATTRIBUTE wanted = {CKA_CLASS, &class, sizeof class};
  CK_OBJECT_HANDLE found[FOUND_MAX];
  const CK_ULONG count = find_objects(slot, &wanted, 1, found);
  for (CK_ULONG at = 0; at < count; at += 1) if (found[at] != key) return found[at];
  return key;
}

static CK_ULONG class_of(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object) {
  CK_OBJECT_CLASS class = CK_UNAVAILABLE_INFORMATION;
  CK_ATTRIBUTE attribute = {CKA_CLASS, &class, sizeof class};
  inner->C_GetAttributeValue(session, object, &attribute, 1);
  return class;
}

/* CKA_EC_POINT as this device tells it; -1 when it does not. */
static CK_RV read_point(const struct call *call, CK_OBJECT_HANDLE object, CK_BYTE *point, CK_ULONG *length) {
  const struct quirks *quirks = quirks_of(call);
  CK_ATTRIBUTE attribute = {CKA_EC_POINT, point, *length};
  CK_RV rv = inner->C_GetAttributeValue(call->session, object, &attribute, 1);
  if (rv != CKR_OK && quirks->point_on_private && class_of(call->session, object) == CKO_PRIVATE_KEY) {
    CK_BYTE id[256];
    CK_OBJECT_CLASS class = CKO_PUBLIC_KEY;
    CK_ATTRIBUTE wanted[] = {{CKA_ID, id, sizeof id}, {CKA_CLASS, &class, sizeof class}};
    CK_OBJECT_HANDLE found[FOUND_MAX];
    if (inner->C_GetAttributeValue(call->session, object, wanted, 1) != CKR_OK) return rv;
    if (find_objects(call->slot, wanted, 2, found) == 0) return rv;
    attribute = (CK_ATTRIBUTE){CKA_EC_POINT, point, *length};
    rv = inner->C_GetAttributeValue(call->session, found[0], &attribute, 1);
  }
  if (rv != CKR_OK) return rv;
  *length = attribute.ulValueLen;
  if (quirks->raw_point && *length == 34 && point[0] == 0x04 && point[1] == 0x20) {
    memmove(point, point + 2, 32);
    *length = 32;
  }
  return CKR_OK;
}

/* ---- Templates ------------------------------------------------------------------------------------------- */

/* What a YubiHSM takes for each half, and the one value that it takes: yubihsm-shell, pkcs11/util_pkcs11.c. */
enum { ANY = 2 };
struct strict { CK_ATTRIBUTE_TYPE type; int value; };

static const struct strict yubihsm_public[] = {
  {CKA_CLASS, ANY}, {CKA_KEY_TYPE, ANY}, {CKA_ID, ANY}, {CKA_LABEL, ANY}, {CKA_EC_PARAMS, ANY}, {CKA_EC_POINT, ANY},
  {CKA_TOKEN, 1}, {CKA_VERIFY, 1}, {CKA_EXTRACTABLE, 1}, {CKA_DESTROYABLE, 1},
  {CKA_PRIVATE, 0}, {CKA_SENSITIVE, 0}, {CKA_MODIFIABLE, 0}, {CKA_COPYABLE, 0}, {0, -1}
};
static const struct strict yubihsm_private[] = {
  {CKA_CLASS, ANY}, {CKA_KEY_TYPE, ANY}, {CKA_ID, ANY}, {CKA_LABEL, ANY}, {CKA_EC_PARAMS, ANY}, {CKA_VALUE, ANY},
  {CKA_SIGN, ANY}, {CKA_EXTRACTABLE, ANY},
  {CKA_TOKEN, 1}, {CKA_SENSITIVE, 1}, {CKA_PRIVATE, 1}, {CKA_DESTROYABLE, 1},
  {CKA_MODIFIABLE, 0}, {CKA_COPYABLE, 0}, {CKA_DERIVE, 0}, {CKA_WRAP, 0}, {CKA_UNWRAP, 0}, {CKA_DECRYPT, 0}, {0, -1}
};

static CK_RV strict_template(const struct strict *allowed, const CK_ATTRIBUTE *given, CK_ULONG count) {
  for (CK_ULONG at = 0; at < count; at += 1) {
    const struct strict *known = allowed;
    while (known->value != -1 && known->type != given[at].type) known += 1;
    if (known->value == -1) return CKR_ATTRIBUTE_TYPE_INVALID;
    if (known->value == ANY) continue;
    if (given[at].ulValueLen != 1 || *(CK_BBOOL *)given[at].pValue != known->value) return CKR_ATTRIBUTE_VALUE_INVALID;
  }
  return CKR_OK;
}

/* AWS CloudHSM, client SDK 5, tables of attributes: what the generation of a key takes. */
static const CK_ATTRIBUTE_TYPE cloudhsm_private[] = {
  CKA_CLASS, CKA_KEY_TYPE, CKA_LABEL, CKA_ID, CKA_TOKEN, CKA_PRIVATE, CKA_DECRYPT, CKA_DERIVE, CKA_MODIFIABLE,
  CKA_DESTROYABLE, CKA_SIGN, CKA_WRAP_WITH_TRUSTED, CKA_UNWRAP, CKA_UNWRAP_TEMPLATE, CKA_SENSITIVE, CKA_EXTRACTABLE
};
static const CK_ATTRIBUTE_TYPE cloudhsm_public[] = {
  CKA_CLASS, CKA_KEY_TYPE, CKA_LABEL, CKA_ID, CKA_TOKEN, CKA_PRIVATE, CKA_ENCRYPT, CKA_DERIVE, CKA_MODIFIABLE,
  CKA_DESTROYABLE, CKA_VERIFY, CKA_WRAP, CKA_WRAP_TEMPLATE, CKA_TRUSTED, CKA_EC_PARAMS, CKA_EC_POINT,
  CKA_MODULUS, CKA_MODULUS_BITS, CKA_PUBLIC_EXPONENT
};
static const CK_ATTRIBUTE_TYPE cloudhsm_secret[] = {
  CKA_CLASS, CKA_KEY_TYPE, CKA_LABEL, CKA_ID, CKA_TOKEN, CKA_PRIVATE, CKA_ENCRYPT, CKA_DECRYPT, CKA_MODIFIABLE,
  CKA_DESTROYABLE, CKA_SIGN, CKA_VERIFY, CKA_WRAP, CKA_WRAP_TEMPLATE, CKA_TRUSTED, CKA_WRAP_WITH_TRUSTED, CKA_UNWRAP,
  CKA_UNWRAP_TEMPLATE, CKA_SENSITIVE, CKA_EXTRACTABLE, CKA_VALUE_LEN, CKA_VALUE
};
/* And what of a key can only be read. */
static const CK_ATTRIBUTE_TYPE cloudhsm_read_only[] = {
  CKA_LOCAL, CKA_ALWAYS_SENSITIVE, CKA_NEVER_EXTRACTABLE, CKA_CHECK_VALUE
};

#define LENGTH(list) (sizeof(list) / sizeof *(list))
#define LISTED(list, type) is_listed(list, LENGTH(list), type)

static bool is_listed(const CK_ATTRIBUTE_TYPE *list, size_t length, CK_ATTRIBUTE_TYPE type) {
  for (size_t at = 0; at < length; at += 1) if (list[at] == type) return true;
  return false;
}

static bool cloudhsm_reads(CK_ATTRIBUTE_TYPE type) {
  return LISTED(cloudhsm_private, type) || LISTED(cloudhsm_public, type) || LISTED(cloudhsm_secret, type) ||
    LISTED(cloudhsm_read_only, type);
}

static CK_RV documented_template(CK_OBJECT_CLASS class, const CK_ATTRIBUTE *given, CK_ULONG count) {
  for (CK_ULONG at = 0; at < count; at += 1) {
    const CK_ATTRIBUTE_TYPE type = given[at].type;
    const bool known = class == CKO_PRIVATE_KEY ? LISTED(cloudhsm_private, type)
      : class == CKO_PUBLIC_KEY ? LISTED(cloudhsm_public, type) : LISTED(cloudhsm_secret, type);
    if (!known) return CKR_TEMPLATE_INCONSISTENT;
  }
  return CKR_OK;
}

static const CK_ATTRIBUTE *attribute_of(const CK_ATTRIBUTE *given, CK_ULONG count, CK_ATTRIBUTE_TYPE type) {
  for (CK_ULONG at = 0; at < count; at += 1) if (given[at].type == type && given[at].pValue) return &given[at];
  return NULL;
}

static CK_ULONG number_in(const CK_ATTRIBUTE *given, CK_ULONG count, CK_ATTRIBUTE_TYPE type) {
  const CK_ATTRIBUTE *attribute = attribute_of(given, count, type);
  CK_ULONG value = CK_UNAVAILABLE_INFORMATION;
  if (attribute && attribute->ulValueLen == sizeof value) memcpy(&value, attribute->pValue, sizeof value);
  return value;
}

static const CK_BYTE edwards_oid[] = {0x06, 0x03, 0x2b, 0x65, 0x70};
static const CK_BYTE edwards_printable[] = {
  0x13, 0x0c, 'e', 'd', 'w', 'a', 'r', 'd', 's', '2', '5', '5', '1', '9'
};

static bool is_value(const CK_ATTRIBUTE *attribute, const CK_BYTE *value, size_t length) {
  return attribute && attribute->ulValueLen == length && memcmp(attribute->pValue, value, length) == 0;
}

/* One half of a key as this device takes it. */
static CK_RV template_taken(const struct quirks *quirks, CK_OBJECT_CLASS class, const CK_ATTRIBUTE *given, CK_ULONG count) {
  CK_RV rv = CKR_OK;
  if (quirks->strict_templates && class == CKO_PUBLIC_KEY) rv = strict_template(yubihsm_public, given, count);
  if (quirks->strict_templates && class == CKO_PRIVATE_KEY) rv = strict_template(yubihsm_private, given, count);
  if (rv == CKR_OK && quirks->documented_attributes) rv = documented_template(class, given, count);
  if (rv != CKR_OK) return rv;
  const CK_ATTRIBUTE *token = attribute_of(given, count, CKA_TOKEN);
  if (quirks->token_objects && token && *(CK_BBOOL *)token->pValue == CK_FALSE) return CKR_ATTRIBUTE_VALUE_INVALID;
  const CK_ATTRIBUTE *curve = attribute_of(given, count, CKA_EC_PARAMS);
  const bool foreign = curve && !is_value(curve, edwards_printable, sizeof edwards_printable);
  return quirks->printable_curve && foreign ? CKR_CURVE_NOT_SUPPORTED : CKR_OK;
}

enum { TEMPLATE_MAX = 64 };

/* A device without session objects makes token objects of all: the template with CKA_TOKEN in it. */
static CK_ATTRIBUTE_PTR with_token(const struct quirks *quirks, CK_ATTRIBUTE copy[], CK_ATTRIBUTE_PTR given, CK_ULONG *count) {
  static CK_BBOOL yes = CK_TRUE;
  if (!quirks->token_objects || attribute_of(given, *count, CKA_TOKEN) || *count >= TEMPLATE_MAX) return given;
  memcpy(copy, given, *count * sizeof *copy);
  copy[(*count)++] = (CK_ATTRIBUTE){CKA_TOKEN, &yes, sizeof yes};
  return copy;
}

/* ---- Capacity and availability --------------------------------------------------------------------------- */

/* A YubiHSM keeps an id that is not 2 bytes long, or a long label, in a second object of its 256. */
static uint64_t objects_for(const CK_ATTRIBUTE *id, const CK_ATTRIBUTE *label) {
  const bool plain = (!id || id->ulValueLen == 2) && (!label || label->ulValueLen <= 40);
  return plain ? 1 : 2;
}

static uint64_t objects_of(const CK_ATTRIBUTE *given, CK_ULONG count) {
  return objects_for(attribute_of(given, count, CKA_ID), attribute_of(given, count, CKA_LABEL));
}

static CK_RV take_room(const struct quirks *quirks, uint64_t wanted) {
  if (quirks->objects_max == 0) return CKR_OK;
  if (atomic_fetch_add(&state->objects, wanted) + wanted <= quirks->objects_max) return CKR_OK;
  atomic_fetch_sub(&state->objects, wanted);
  return CKR_DEVICE_MEMORY;
}

static void give_room(const struct quirks *quirks, uint64_t objects) {
  if (quirks->objects_max > 0 && state->objects >= objects) atomic_fetch_sub(&state->objects, objects);
}

static void note_created(CK_OBJECT_HANDLE handle) {
  pthread_mutex_lock(&table_lock);
  created[created_count % CREATED_MAX].handle = handle;
  created[created_count % CREATED_MAX].at_ms = now_ms();
  created_count += 1;
  pthread_mutex_unlock(&table_lock);
}

/* A new key is in use once enough members of the cluster have it. */
static CK_RV available(const struct quirks *quirks, CK_OBJECT_HANDLE key) {
  if (quirks->available_ms == 0) return CKR_OK;
  CK_RV rv = CKR_OK;
  pthread_mutex_lock(&table_lock);
  for (size_t at = 0; at < CREATED_MAX && at < created_count; at += 1) {
    if (created[at].handle == key && now_ms() - created[at].at_ms < quirks->available_ms) rv = CKR_FUNCTION_FAILED;
  }
  pthread_mutex_unlock(&table_lock);
  return rv;
}

/* ---- Mechanisms ------------------------------------------------------------------------------------------ */

static bool is_masked(const struct call *call, CK_MECHANISM_TYPE type) {
  for (size_t at = 0; at < call->control->masked_count; at += 1) if (call->control->masked[at] == type) return true;
  return false;
}

static CK_RV offered(const struct call *call, CK_MECHANISM_PTR mechanism) {
  return mechanism && is_masked(call, mechanism->mechanism) ? CKR_MECHANISM_INVALID : CKR_OK;
}

/* ---- PINs: counted across processes ---------------------------------------------------------------------- */

static struct token_state *token_state(CK_SLOT_ID slot) {
  char label[33];
  slot_label(slot, label);
  pthread_mutex_lock(&table_lock);
  struct token_state *found = NULL;
  for (int at = 0; at < TOKENS_MAX && !found; at += 1) {
    struct token_state *token = &state->tokens[at];
    uint64_t free_place = 0;
    if (atomic_compare_exchange_strong(&token->claimed, &free_place, 1)) {
      memcpy(token->label, label, 32);
      found = token;
    } else if (strncmp(token->label, label, 32) == 0) found = token;
  }
  pthread_mutex_unlock(&table_lock);
  if (!found) die("too many tokens");
  return found;
}

static CK_FLAGS pin_flags(const struct quirks *quirks, CK_SLOT_ID slot) {
  CK_FLAGS flags = quirks->pin_flags;
  if (quirks->pin_limit == 0) return flags;
  const uint64_t failures = token_state(slot)->failures;
  if (failures >= quirks->pin_limit) return flags | CKF_USER_PIN_LOCKED;
  if (failures + 1 == quirks->pin_limit) flags |= CKF_USER_PIN_FINAL_TRY;
  return failures > 0 ? flags | CKF_USER_PIN_COUNT_LOW : flags;
}

static CK_RV counted_login(struct call *call, CK_USER_TYPE user, CK_UTF8CHAR_PTR pin, CK_ULONG length) {
  if (user != CKU_USER || !call->has_slot) return inner->C_Login(call->session, user, pin, length);
  struct token_state *token = token_state(call->slot);
  const CK_ULONG limit = quirks_of(call)->pin_limit;
  if (limit > 0 && token->failures >= limit) return CKR_PIN_LOCKED;
  const CK_RV rv = inner->C_Login(call->session, user, pin, length);
  if (rv == CKR_OK || rv == CKR_PIN_INCORRECT || rv == CKR_PIN_LEN_RANGE) token->attempts += 1;
  if (rv == CKR_OK) token->failures = 0;
  if (rv == CKR_PIN_INCORRECT || rv == CKR_PIN_LEN_RANGE) {
    token->wrong += 1;
    token->failures += 1;
  }
  return rv;
}

/* ---- General purpose functions (§5.4) -------------------------------------------------------------------- */

static CK_RV p_C_Initialize(CK_VOID_PTR arguments) {
  if (!attach()) return CKR_GENERAL_ERROR;
  struct call call;
  CK_RV rv = begin_general(&call, FN_C_Initialize);
  if (rv == CKR_OK) {
    rv = inner->C_Initialize(arguments);
    if (rv == CKR_OK) forget_everything();
    if (rv == CKR_OK || rv == CKR_CRYPTOKI_ALREADY_INITIALIZED) initialized = true;
  }
  return end(&call, rv);
}

/* Waits for the calls that are in the wrapped module, which would otherwise crash as it may. */
static CK_RV p_C_Finalize(CK_VOID_PTR reserved) {
  struct call call;
  CK_RV rv = begin_general(&call, FN_C_Finalize);
  if (rv == CKR_OK) {
    pthread_rwlock_unlock(&inner_lock);
    pthread_rwlock_wrlock(&inner_lock);
    rv = inner->C_Finalize(reserved);
    if (rv == CKR_OK) {
      initialized = false;
      forget_everything();
    }
  }
  return end(&call, rv);
}

static CK_RV p_C_GetInfo(CK_INFO_PTR info) {
  struct call call;
  CK_RV rv = begin_general(&call, FN_C_GetInfo);
  if (rv == CKR_OK) rv = inner->C_GetInfo(info);
  return end(&call, rv);
}

/* ---- Slots and tokens (§5.5) ----------------------------------------------------------------------------- */

static bool is_absent(const struct call *call, CK_SLOT_ID slot) {
  pthread_mutex_lock(&table_lock);
  bool absent = slot_entry(slot)->missing;
  pthread_mutex_unlock(&table_lock);
  for (size_t at = 0; at < call->control->absence_count; at += 1) {
    absent = absent || is_token(slot, call->control->absences[at].token);
  }
  return absent;
}

/* §5.5.1: the number alone when there is no room for the list itself. */
static CK_RV slot_list(const struct call *call, CK_BBOOL present, CK_SLOT_ID_PTR list, CK_ULONG_PTR count) {
  CK_SLOT_ID ids[SLOTS_MAX];
  CK_ULONG found = SLOTS_MAX, kept = 0;
  CK_RV rv = CKR_OK;
  if (!count) return CKR_ARGUMENTS_BAD;
  if (!list) rv = inner->C_GetSlotList(present, NULL, &found); /* SoftHSM looks for tokens only then */
  found = SLOTS_MAX;
  if (rv == CKR_OK) rv = inner->C_GetSlotList(present, ids, &found);
  if (rv != CKR_OK) return rv;
  for (CK_ULONG at = 0; at < found; at += 1) if (!present || !is_absent(call, ids[at])) ids[kept++] = ids[at];
  const CK_ULONG room = *count;
  *count = kept;
  if (!list) return CKR_OK;
  if (room < kept) return CKR_BUFFER_TOO_SMALL;
  memcpy(list, ids, kept * sizeof *ids);
  return CKR_OK;
}

static CK_RV p_C_GetSlotList(CK_BBOOL present, CK_SLOT_ID_PTR list, CK_ULONG_PTR count) {
  struct call call;
  CK_RV rv = begin_general(&call, FN_C_GetSlotList);
  if (rv == CKR_OK) rv = slot_list(&call, present, list, count);
  return end(&call, rv);
}

static CK_RV p_C_GetSlotInfo(CK_SLOT_ID slot, CK_SLOT_INFO_PTR info) {
  struct call call;
  CK_RV rv = begin_slot(&call, FN_C_GetSlotInfo, slot);
  if (rv == CKR_OK) rv = inner->C_GetSlotInfo(slot, info);
  if (rv == CKR_OK && is_absent(&call, slot)) info->flags &= ~(CK_FLAGS)CKF_TOKEN_PRESENT;
  return end(&call, rv);
}

static CK_RV p_C_GetTokenInfo(CK_SLOT_ID slot, CK_TOKEN_INFO_PTR info) {
  struct call call;
  CK_RV rv = begin_slot(&call, FN_C_GetTokenInfo, slot);
  if (rv == CKR_OK) rv = inner->C_GetTokenInfo(slot, info);
  if (rv == CKR_OK) info->flags |= pin_flags(quirks_of(&call), slot);
  return end(&call, rv);
}

static CK_RV p_C_WaitForSlotEvent(CK_FLAGS flags, CK_SLOT_ID_PTR slot, CK_VOID_PTR reserved) {
  struct call call;
  CK_RV rv = begin_general(&call, FN_C_WaitForSlotEvent);
  if (rv == CKR_OK) {
    rv = quirks_of(&call)->no_slot_events ? CKR_FUNCTION_NOT_SUPPORTED : inner->C_WaitForSlotEvent(flags, slot, reserved);
  }
  return end(&call, rv);
}

/* §5.5.5 */
static CK_RV mechanism_list(const struct call *call, CK_MECHANISM_TYPE_PTR list, CK_ULONG_PTR count) {
  CK_MECHANISM_TYPE types[512];
  CK_ULONG found = LENGTH(types), kept = 0;
  const CK_RV rv = inner->C_GetMechanismList(call->slot, types, &found);
  if (rv != CKR_OK) return rv;
  for (CK_ULONG at = 0; at < found; at += 1) if (!is_masked(call, types[at])) types[kept++] = types[at];
  const CK_ULONG room = *count;
  *count = kept;
  if (!list) return CKR_OK;
  if (room < kept) return CKR_BUFFER_TOO_SMALL;
  memcpy(list, types, kept * sizeof *types);
  return CKR_OK;
}

static CK_RV p_C_GetMechanismList(CK_SLOT_ID slot, CK_MECHANISM_TYPE_PTR list, CK_ULONG_PTR count) {
  struct call call;
  CK_RV rv = begin_slot(&call, FN_C_GetMechanismList, slot);
  if (rv == CKR_OK) rv = mechanism_list(&call, list, count);
  return end(&call, rv);
}

static CK_RV p_C_GetMechanismInfo(CK_SLOT_ID slot, CK_MECHANISM_TYPE type, CK_MECHANISM_INFO_PTR info) {
  struct call call;
  CK_RV rv = begin_slot(&call, FN_C_GetMechanismInfo, slot);
  if (rv == CKR_OK) rv = is_masked(&call, type) ? CKR_MECHANISM_INVALID : inner->C_GetMechanismInfo(slot, type, info);
  return end(&call, rv);
}

static CK_RV p_C_InitToken(CK_SLOT_ID slot, CK_UTF8CHAR_PTR pin, CK_ULONG length, CK_UTF8CHAR_PTR label) {
  struct call call;
  CK_RV rv = begin_slot(&call, FN_C_InitToken, slot);
  if (rv == CKR_OK) rv = inner->C_InitToken(slot, pin, length, label);
  return end(&call, rv);
}

/* ---- Sessions (§5.6) ------------------------------------------------------------------------------------- */

static CK_RV p_C_OpenSession(CK_SLOT_ID slot, CK_FLAGS flags, CK_VOID_PTR application, CK_NOTIFY notify, CK_SESSION_HANDLE_PTR session) {
  struct call call;
  CK_RV rv = begin_slot(&call, FN_C_OpenSession, slot);
  /* What client SDK 5 of AWS CloudHSM answers: OpenSC/libp11, issue 412. */
  if (rv == CKR_OK && quirks_of(&call)->read_write_only && !(flags & CKF_RW_SESSION)) rv = CKR_FUNCTION_FAILED;
  else if (rv == CKR_OK) rv = inner->C_OpenSession(slot, flags, application, notify, session);
  if (rv == CKR_OK) add_session(*session, slot);
  return end(&call, rv);
}

static CK_RV p_C_CloseSession(CK_SESSION_HANDLE session) {
  struct call call;
  CK_RV rv = begin_session(&call, FN_C_CloseSession, session);
  if (rv == CKR_OK) {
    rv = inner->C_CloseSession(session);
    remove_session(session);
  }
  return end(&call, rv);
}

static CK_RV p_C_CloseAllSessions(CK_SLOT_ID slot) {
  struct call call;
  CK_RV rv = begin_slot(&call, FN_C_CloseAllSessions, slot);
  if (rv == CKR_OK) {
    rv = inner->C_CloseAllSessions(slot);
    pthread_mutex_lock(&table_lock);
    for (size_t at = session_count; at-- > 0;) if (sessions[at].slot == slot) sessions[at] = sessions[--session_count];
    pthread_mutex_unlock(&table_lock);
  }
  return end(&call, rv);
}

static CK_RV p_C_Login(CK_SESSION_HANDLE session, CK_USER_TYPE user, CK_UTF8CHAR_PTR pin, CK_ULONG length) {
  struct call call;
  CK_RV rv = begin_session(&call, FN_C_Login, session);
  if (rv == CKR_OK) rv = counted_login(&call, user, pin, length);
  if (rv == CKR_OK && call.has_slot) {
    pthread_mutex_lock(&table_lock);
    slot_entry(call.slot)->login_lost = false;
    pthread_mutex_unlock(&table_lock);
  }
  return end(&call, rv);
}

/* A function that only has to be let through. */
#define FORWARD(name, parameters, arguments)                    \
  static CK_RV p_##name parameters {                            \
    struct call call;                                           \
    CK_RV rv = begin_session(&call, FN_##name, session);        \
    if (rv == CKR_OK) rv = inner->name arguments;               \
    return end(&call, rv);                                      \
  }

/* One that begins an operation with a mechanism. */
#define FORWARD_MECHANISM(name, parameters, arguments)          \
  static CK_RV p_##name parameters {                            \
    struct call call;                                           \
    CK_RV rv = begin_session(&call, FN_##name, session);        \
    if (rv == CKR_OK) rv = offered(&call, mechanism);           \
    if (rv == CKR_OK) rv = inner->name arguments;               \
    return end(&call, rv);                                      \
  }

#define SESSION CK_SESSION_HANDLE session
#define IN(name) CK_BYTE_PTR name, CK_ULONG name##_length
#define OUT(name) CK_BYTE_PTR name, CK_ULONG_PTR name##_length
#define PASS(name) name, name##_length

FORWARD(C_Logout, (SESSION), (session))
FORWARD(C_InitPIN, (SESSION, IN(pin)), (session, PASS(pin)))
FORWARD(C_SetPIN, (SESSION, IN(old), IN(new)), (session, PASS(old), PASS(new)))
FORWARD(C_GetSessionInfo, (SESSION, CK_SESSION_INFO_PTR info), (session, info))
FORWARD(C_GetOperationState, (SESSION, OUT(saved)), (session, PASS(saved)))
FORWARD(C_SetOperationState, (SESSION, IN(saved), CK_OBJECT_HANDLE encrypting, CK_OBJECT_HANDLE authenticating),
  (session, PASS(saved), encrypting ? key_in(encrypting) : 0, authenticating ? key_in(authenticating) : 0))

/* ---- Objects (§5.7) -------------------------------------------------------------------------------------- */

static CK_RV created_object(struct call *call, CK_ATTRIBUTE_PTR given, CK_ULONG count, CK_OBJECT_HANDLE_PTR object) {
  const struct quirks *quirks = quirks_of(call);
  const CK_OBJECT_CLASS class = number_in(given, count, CKA_CLASS);
  if (quirks->no_private_import && class == CKO_PRIVATE_KEY) return CKR_TEMPLATE_INCONSISTENT;
  CK_RV rv = template_taken(quirks, class, given, count);
  if (rv != CKR_OK) return rv;
  const uint64_t room = class == CKO_PUBLIC_KEY ? 0 : objects_of(given, count);
  if ((rv = take_room(quirks, room)) != CKR_OK) return rv;
  CK_ATTRIBUTE copy[TEMPLATE_MAX];
  given = with_token(quirks, copy, given, &count);
  rv = inner->C_CreateObject(call->session, given, count, object);
  if (rv != CKR_OK) give_room(quirks, room);
  else *object = object_out(*object);
  return rv;
}

static CK_RV p_C_CreateObject(SESSION, CK_ATTRIBUTE_PTR given, CK_ULONG count, CK_OBJECT_HANDLE_PTR object) {
  struct call call;
  CK_RV rv = begin_session(&call, FN_C_CreateObject, session);
  if (rv == CKR_OK) rv = created_object(&call, given, count, object);
  return end(&call, rv);
}

static CK_RV p_C_CopyObject(SESSION, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_PTR given, CK_ULONG count, CK_OBJECT_HANDLE_PTR copy) {
  struct call call;
  CK_RV rv = begin_session(&call, FN_C_CopyObject, session);
  if (rv == CKR_OK) rv = inner->C_CopyObject(session, object_in(object), given, count, copy);
  if (rv == CKR_OK) *copy = object_out(*copy);
  return end(&call, rv);
}

/* The public half of a key is a view of it and takes no room of its own. */
static uint64_t room_of(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object) {
  CK_BYTE id[256], label[256];
  CK_ATTRIBUTE named[] = {{CKA_ID, id, sizeof id}, {CKA_LABEL, label, sizeof label}};
  if (class_of(session, object) == CKO_PUBLIC_KEY) return 0;
  return inner->C_GetAttributeValue(session, object, named, 2) == CKR_OK ? objects_for(&named[0], &named[1]) : 0;
}

static CK_RV p_C_DestroyObject(SESSION, CK_OBJECT_HANDLE object) {
  struct call call;
  CK_RV rv = begin_session(&call, FN_C_DestroyObject, session);
  if (rv == CKR_OK) {
    const CK_OBJECT_HANDLE handle = object_in(object);
    const uint64_t room = quirks_of(&call)->objects_max ? room_of(session, handle) : 0;
    rv = inner->C_DestroyObject(session, handle);
    if (rv == CKR_OK) give_room(quirks_of(&call), room);
  }
  return end(&call, rv);
}

FORWARD(C_GetObjectSize, (SESSION, CK_OBJECT_HANDLE object, CK_ULONG_PTR size), (session, object_in(object), size))
FORWARD(C_SetAttributeValue, (SESSION, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_PTR given, CK_ULONG count),
  (session, object_in(object), given, count))

/* §5.7.5: the length alone without a place, and what does not fit is said to be unavailable. */
static CK_RV tell_point(const struct call *call, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_PTR attribute) {
  CK_BYTE point[256];
  CK_ULONG length = sizeof point;
  const CK_RV rv = read_point(call, object, point, &length);
  const CK_ULONG room = attribute->ulValueLen;
  attribute->ulValueLen = rv == CKR_OK ? length : CK_UNAVAILABLE_INFORMATION;
  if (rv != CKR_OK || !attribute->pValue) return rv;
  if (room < length) {
    attribute->ulValueLen = CK_UNAVAILABLE_INFORMATION;
    return CKR_BUFFER_TOO_SMALL;
  }
  memcpy(attribute->pValue, point, length);
  return CKR_OK;
}

/* One attribute after the other, because some of them are told otherwise than the wrapped module would. */
static CK_RV told_attributes(const struct call *call, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_PTR wanted, CK_ULONG count) {
  const struct quirks *quirks = quirks_of(call);
  CK_RV first = CKR_OK;
  for (CK_ULONG at = 0; at < count; at += 1) {
    CK_RV rv;
    if (quirks->documented_attributes && !cloudhsm_reads(wanted[at].type)) {
      wanted[at].ulValueLen = CK_UNAVAILABLE_INFORMATION;
      rv = CKR_ATTRIBUTE_TYPE_INVALID;
    } else if (wanted[at].type == CKA_EC_POINT && (quirks->raw_point || quirks->point_on_private)) {
      rv = tell_point(call, object, &wanted[at]);
    } else rv = inner->C_GetAttributeValue(call->session, object, &wanted[at], 1);
    if (first == CKR_OK) first = rv;
  }
  return first;
}

static CK_RV p_C_GetAttributeValue(SESSION, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_PTR wanted, CK_ULONG count) {
  struct call call;
  CK_RV rv = begin_session(&call, FN_C_GetAttributeValue, session);
  if (rv == CKR_OK) rv = told_attributes(&call, object_in(object), wanted, count);
  return end(&call, rv);
}

FORWARD(C_FindObjectsInit, (SESSION, CK_ATTRIBUTE_PTR wanted, CK_ULONG count), (session, wanted, count))

static CK_RV p_C_FindObjects(SESSION, CK_OBJECT_HANDLE_PTR found, CK_ULONG room, CK_ULONG_PTR count) {
  struct call call;
  CK_RV rv = begin_session(&call, FN_C_FindObjects, session);
  if (rv == CKR_OK) rv = inner->C_FindObjects(session, found, room, count);
  for (CK_ULONG at = 0; rv == CKR_OK && at < *count; at += 1) found[at] = object_out(found[at]);
  return end(&call, rv);
}

FORWARD(C_FindObjectsFinal, (SESSION), (session))

/* ---- Encryption and decryption (§5.8, §5.10) ------------------------------------------------------------- */

/* CK_GCM_PARAMS (§6.13.3) with an IV of the device: zeroed on the way in, written back by C_Encrypt. */
static CK_RV encrypt_with_own_iv(struct call *call, CK_MECHANISM_PTR mechanism, CK_OBJECT_HANDLE key) {
  if (!mechanism->pParameter || mechanism->ulParameterLen != sizeof(CK_GCM_PARAMS)) return CKR_MECHANISM_PARAM_INVALID;
  CK_GCM_PARAMS parameters = *(CK_GCM_PARAMS *)mechanism->pParameter;
  static const CK_BYTE zeroed[12];
  const bool asked = parameters.pIv && parameters.ulIvLen == sizeof zeroed && parameters.ulIvBits == 0 &&
    memcmp(parameters.pIv, zeroed, sizeof zeroed) == 0;
  if (!asked) return CKR_MECHANISM_PARAM_INVALID;
  CK_BYTE iv[12];
  if (getrandom(iv, sizeof iv, 0) != sizeof iv) return CKR_DEVICE_ERROR;
  pthread_mutex_lock(&table_lock);
  struct session *session = find_session(call->session);
  if (session) {
    memcpy(session->iv, iv, sizeof iv);
    session->iv_out = parameters.pIv;
  }
  pthread_mutex_unlock(&table_lock);
  parameters.pIv = iv;
  parameters.ulIvBits = 96;
  CK_MECHANISM with_iv = {CKM_AES_GCM, &parameters, sizeof parameters};
  return inner->C_EncryptInit(call->session, &with_iv, key);
}

static void hand_out_iv(CK_SESSION_HANDLE handle) {
  pthread_mutex_lock(&table_lock);
  struct session *session = find_session(handle);
  if (session && session->iv_out) {
    memcpy(session->iv_out, session->iv, sizeof session->iv);
    session->iv_out = NULL;
  }
  pthread_mutex_unlock(&table_lock);
}

static CK_RV p_C_EncryptInit(SESSION, CK_MECHANISM_PTR mechanism, CK_OBJECT_HANDLE key) {
  struct call call;
  CK_RV rv = begin_session(&call, FN_C_EncryptInit, session);
  if (rv == CKR_OK) rv = offered(&call, mechanism);
  if (rv == CKR_OK) {
    const CK_OBJECT_HANDLE handle = key_in(key);
    rv = available(quirks_of(&call), handle);
    if (rv == CKR_OK && quirks_of(&call)->device_iv && mechanism && mechanism->mechanism == CKM_AES_GCM) {
      rv = encrypt_with_own_iv(&call, mechanism, handle);
    } else if (rv == CKR_OK) rv = inner->C_EncryptInit(session, mechanism, handle);
  }
  return end(&call, rv);
}

static CK_RV p_C_Encrypt(SESSION, IN(plain), OUT(sealed)) {
  struct call call;
  CK_RV rv = begin_session(&call, FN_C_Encrypt, session);
  if (rv == CKR_OK) rv = inner->C_Encrypt(session, PASS(plain), PASS(sealed));
  if (rv == CKR_OK && sealed) hand_out_iv(session);
  return end(&call, rv);
}

FORWARD(C_EncryptUpdate, (SESSION, IN(part), OUT(sealed)), (session, PASS(part), PASS(sealed)))
FORWARD(C_EncryptFinal, (SESSION, OUT(sealed)), (session, PASS(sealed)))
FORWARD_MECHANISM(C_DecryptInit, (SESSION, CK_MECHANISM_PTR mechanism, CK_OBJECT_HANDLE key), (session, mechanism, key_in(key)))
FORWARD(C_Decrypt, (SESSION, IN(sealed), OUT(plain)), (session, PASS(sealed), PASS(plain)))
FORWARD(C_DecryptUpdate, (SESSION, IN(sealed), OUT(plain)), (session, PASS(sealed), PASS(plain)))
FORWARD(C_DecryptFinal, (SESSION, OUT(plain)), (session, PASS(plain)))

/* ---- Digests (§5.12) ------------------------------------------------------------------------------------- */

FORWARD_MECHANISM(C_DigestInit, (SESSION, CK_MECHANISM_PTR mechanism), (session, mechanism))
FORWARD(C_Digest, (SESSION, IN(data), OUT(digest)), (session, PASS(data), PASS(digest)))
FORWARD(C_DigestUpdate, (SESSION, IN(part)), (session, PASS(part)))
FORWARD(C_DigestKey, (SESSION, CK_OBJECT_HANDLE key), (session, key_in(key)))
FORWARD(C_DigestFinal, (SESSION, OUT(digest)), (session, PASS(digest)))

/* ---- Signatures (§5.13) ---------------------------------------------------------------------------------- */

static CK_RV p_C_SignInit(SESSION, CK_MECHANISM_PTR mechanism, CK_OBJECT_HANDLE key) {
  struct call call;
  CK_RV rv = begin_session(&call, FN_C_SignInit, session);
  if (rv == CKR_OK) rv = offered(&call, mechanism);
  if (rv == CKR_OK) {
    CK_OBJECT_HANDLE handle = key_in(key);
    if (call.wrong_key && call.has_slot) handle = another_key(call.slot, handle);
    rv = available(quirks_of(&call), handle);
    if (rv == CKR_OK) rv = inner->C_SignInit(session, mechanism, handle);
  }
  return end(&call, rv);
}

/* The signature of another message: the same one with its first bit flipped. */
static CK_RV sign_another(CK_SESSION_HANDLE session, IN(data), OUT(signature)) {
  CK_BYTE_PTR other = malloc(data_length ? data_length : 1);
  if (!other) return CKR_HOST_MEMORY;
  memcpy(other, data, data_length);
  if (data_length > 0) other[0] ^= 1;
  const CK_RV rv = inner->C_Sign(session, other, data_length, PASS(signature));
  free(other);
  return rv;
}

static CK_RV p_C_Sign(SESSION, IN(data), OUT(signature)) {
  struct call call;
  CK_RV rv = begin_session(&call, FN_C_Sign, session);
  if (rv == CKR_OK) {
    rv = (call.foreign && signature ? sign_another : inner->C_Sign)(session, PASS(data), PASS(signature));
    if (rv == CKR_OK && call.corrupt && signature) signature[*signature_length / 2] ^= 1;
  }
  return end(&call, rv);
}

FORWARD(C_SignUpdate, (SESSION, IN(part)), (session, PASS(part)))
FORWARD(C_SignFinal, (SESSION, OUT(signature)), (session, PASS(signature)))
FORWARD_MECHANISM(C_SignRecoverInit, (SESSION, CK_MECHANISM_PTR mechanism, CK_OBJECT_HANDLE key), (session, mechanism, key_in(key)))
FORWARD(C_SignRecover, (SESSION, IN(data), OUT(signature)), (session, PASS(data), PASS(signature)))
FORWARD_MECHANISM(C_VerifyInit, (SESSION, CK_MECHANISM_PTR mechanism, CK_OBJECT_HANDLE key), (session, mechanism, key_in(key)))
FORWARD(C_Verify, (SESSION, IN(data), IN(signature)), (session, PASS(data), PASS(signature)))
FORWARD(C_VerifyUpdate, (SESSION, IN(part)), (session, PASS(part)))
FORWARD(C_VerifyFinal, (SESSION, IN(signature)), (session, PASS(signature)))
FORWARD_MECHANISM(C_VerifyRecoverInit, (SESSION, CK_MECHANISM_PTR mechanism, CK_OBJECT_HANDLE key), (session, mechanism, key_in(key)))
FORWARD(C_VerifyRecover, (SESSION, IN(signature), OUT(data)), (session, PASS(signature), PASS(data)))

/* ---- Two operations at once (§5.16) ---------------------------------------------------------------------- */

FORWARD(C_DigestEncryptUpdate, (SESSION, IN(part), OUT(sealed)), (session, PASS(part), PASS(sealed)))
FORWARD(C_DecryptDigestUpdate, (SESSION, IN(sealed), OUT(part)), (session, PASS(sealed), PASS(part)))
FORWARD(C_SignEncryptUpdate, (SESSION, IN(part), OUT(sealed)), (session, PASS(part), PASS(sealed)))
FORWARD(C_DecryptVerifyUpdate, (SESSION, IN(sealed), OUT(part)), (session, PASS(sealed), PASS(part)))

/* ---- Keys (§5.18) ---------------------------------------------------------------------------------------- */

static CK_RV generated_key(struct call *call, CK_MECHANISM_PTR mechanism, CK_ATTRIBUTE_PTR given, CK_ULONG count, CK_OBJECT_HANDLE_PTR key) {
  const struct quirks *quirks = quirks_of(call);
  CK_RV rv = template_taken(quirks, CKO_SECRET_KEY, given, count);
  if (rv != CKR_OK) return rv;
  const uint64_t room = objects_of(given, count);
  if ((rv = take_room(quirks, room)) != CKR_OK) return rv;
  CK_ATTRIBUTE copy[TEMPLATE_MAX];
  given = with_token(quirks, copy, given, &count);
  rv = inner->C_GenerateKey(call->session, mechanism, given, count, key);
  if (rv != CKR_OK) {
    give_room(quirks, room);
    return rv;
  }
  note_created(*key);
  *key = object_out(*key);
  return CKR_OK;
}

static CK_RV p_C_GenerateKey(SESSION, CK_MECHANISM_PTR mechanism, CK_ATTRIBUTE_PTR given, CK_ULONG count, CK_OBJECT_HANDLE_PTR key) {
  struct call call;
  CK_RV rv = begin_session(&call, FN_C_GenerateKey, session);
  if (rv == CKR_OK) rv = offered(&call, mechanism);
  if (rv == CKR_OK) rv = generated_key(&call, mechanism, given, count, key);
  return end(&call, rv);
}

struct pair {
  CK_ATTRIBUTE_PTR public, private;
  CK_ULONG public_count, private_count;
};

/* On a device that knows the curve by CKM_EC_KEY_PAIR_GEN and its OID only, the other way is not known. */
static CK_RV edwards_mechanism(const struct quirks *quirks, CK_MECHANISM *mechanism, const struct pair *pair) {
  if (!quirks->edwards_by_ec) return CKR_OK;
  if (mechanism->mechanism == CKM_EC_EDWARDS_KEY_PAIR_GEN) return CKR_MECHANISM_INVALID;
  const CK_ATTRIBUTE *curve = attribute_of(pair->public, pair->public_count, CKA_EC_PARAMS);
  const bool edwards = is_value(curve, edwards_oid, sizeof edwards_oid);
  if (mechanism->mechanism == CKM_EC_KEY_PAIR_GEN && edwards) mechanism->mechanism = CKM_EC_EDWARDS_KEY_PAIR_GEN;
  return CKR_OK;
}

static CK_RV generated_pair(struct call *call, CK_MECHANISM mechanism, struct pair pair, CK_OBJECT_HANDLE_PTR public, CK_OBJECT_HANDLE_PTR private) {
  const struct quirks *quirks = quirks_of(call);
  CK_RV rv = edwards_mechanism(quirks, &mechanism, &pair);
  if (rv == CKR_OK) rv = template_taken(quirks, CKO_PUBLIC_KEY, pair.public, pair.public_count);
  if (rv == CKR_OK) rv = template_taken(quirks, CKO_PRIVATE_KEY, pair.private, pair.private_count);
  if (rv != CKR_OK) return rv;
  const uint64_t room = objects_of(pair.private, pair.private_count);
  if ((rv = take_room(quirks, room)) != CKR_OK) return rv;
  CK_ATTRIBUTE public_copy[TEMPLATE_MAX], private_copy[TEMPLATE_MAX];
  pair.public = with_token(quirks, public_copy, pair.public, &pair.public_count);
  pair.private = with_token(quirks, private_copy, pair.private, &pair.private_count);
  rv = inner->C_GenerateKeyPair(call->session, &mechanism, pair.public, pair.public_count, pair.private,
    pair.private_count, public, private);
  if (rv != CKR_OK) {
    give_room(quirks, room);
    return rv;
  }
  note_created(*private);
  *public = object_out(*public);
  *private = object_out(*private);
  return CKR_OK;
}

static CK_RV p_C_GenerateKeyPair(SESSION, CK_MECHANISM_PTR mechanism, CK_ATTRIBUTE_PTR public, CK_ULONG public_count,
  CK_ATTRIBUTE_PTR private, CK_ULONG private_count, CK_OBJECT_HANDLE_PTR public_key, CK_OBJECT_HANDLE_PTR private_key) {
  struct call call;
  CK_RV rv = begin_session(&call, FN_C_GenerateKeyPair, session);
  if (rv == CKR_OK && !mechanism) rv = CKR_ARGUMENTS_BAD;
  if (rv == CKR_OK) rv = offered(&call, mechanism);
  const struct pair pair = {public, private, public_count, private_count};
  if (rv == CKR_OK) rv = generated_pair(&call, *mechanism, pair, public_key, private_key);
  return end(&call, rv);
}

FORWARD_MECHANISM(C_WrapKey, (SESSION, CK_MECHANISM_PTR mechanism, CK_OBJECT_HANDLE wrapping, CK_OBJECT_HANDLE key, OUT(wrapped)),
  (session, mechanism, key_in(wrapping), key_in(key), PASS(wrapped)))

static CK_RV p_C_UnwrapKey(SESSION, CK_MECHANISM_PTR mechanism, CK_OBJECT_HANDLE unwrapping, IN(wrapped),
  CK_ATTRIBUTE_PTR given, CK_ULONG count, CK_OBJECT_HANDLE_PTR key) {
  struct call call;
  CK_RV rv = begin_session(&call, FN_C_UnwrapKey, session);
  if (rv == CKR_OK) rv = offered(&call, mechanism);
  if (rv == CKR_OK) rv = inner->C_UnwrapKey(session, mechanism, key_in(unwrapping), PASS(wrapped), given, count, key);
  if (rv == CKR_OK) *key = object_out(*key);
  return end(&call, rv);
}

static CK_RV p_C_DeriveKey(SESSION, CK_MECHANISM_PTR mechanism, CK_OBJECT_HANDLE base, CK_ATTRIBUTE_PTR given,
  CK_ULONG count, CK_OBJECT_HANDLE_PTR key) {
  struct call call;
  CK_RV rv = begin_session(&call, FN_C_DeriveKey, session);
  if (rv == CKR_OK) rv = offered(&call, mechanism);
  if (rv == CKR_OK) rv = inner->C_DeriveKey(session, mechanism, key_in(base), given, count, key);
  if (rv == CKR_OK && key) *key = object_out(*key);
  return end(&call, rv);
}

/* ---- Randomness, and what is left of parallel functions (§5.19, §5.20) ----------------------------------- */

FORWARD(C_SeedRandom, (SESSION, IN(seed)), (session, PASS(seed)))
FORWARD(C_GenerateRandom, (SESSION, IN(random)), (session, PASS(random)))
FORWARD(C_GetFunctionStatus, (SESSION), (session))
FORWARD(C_CancelFunction, (SESSION), (session))

/* ---- The list of functions ------------------------------------------------------------------------------- */

#define p_C_GetFunctionList C_GetFunctionList
static CK_FUNCTION_LIST list = {
  {2, 40},
#define CK_PKCS11_FUNCTION_INFO(name) p_##name,
#include "pkcs11f.h"
#undef CK_PKCS11_FUNCTION_INFO
};

__attribute__((visibility("default"))) CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR functions) {
  if (!functions) return CKR_ARGUMENTS_BAD;
  *functions = &list;
  return CKR_OK;
}
