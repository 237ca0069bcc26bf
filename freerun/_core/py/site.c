/* site: where spawn() was called, interned once per place. freerun's own frames do not count: the place is its caller's.
 *
 * A failed task is reported with its spawn site, so every spawn records one; that has to cost nanoseconds. The key is
 * the frame's first word (its code object, tagged or not, never dereferenced here) and the instruction offset; a
 * worker remembers the last few. A table entry owns its code object, so a key cannot come to mean another one.
 */
#include <stddef.h>
#include <stdlib.h>

#include "runtime.h"

/* A program that makes code without end gets no more entries (and reports "unknown"), rather than unbounded memory. */
enum { MAX_SITES = 1 << 14, FIRST_SIZE = 256 };

static uint32_t site_hash(uintptr_t key, int lasti)
{
    uint64_t h = ((uint64_t)key >> 4) * UINT64_C(0x9E3779B97F4A7C15) + (uint32_t)lasti * UINT64_C(0x85EBCA77);
    return (uint32_t)(h >> 32);
}

static struct fr_site *find_locked(struct fr_site_table *table, uintptr_t key, int lasti)
{
    if (!table->size) {
        return NULL;
    }
    for (uint32_t i = site_hash(key, lasti);; i++) {
        struct fr_site *site = table->slots[i & (table->size - 1)];
        if (!site || (site->key == key && site->lasti == lasti)) {
            return site;
        }
    }
}

static void place_locked(struct fr_site **slots, uint32_t size, struct fr_site *site)
{
    uint32_t i = site_hash(site->key, site->lasti);
    while (slots[i & (size - 1)]) {
        i++;
    }
    slots[i & (size - 1)] = site;
}

static bool grow_locked(struct fr_site_table *table)
{
    if (table->used * 2 < table->size) {
        return true;
    }
    uint32_t size = table->size ? table->size * 2 : FIRST_SIZE;
    struct fr_site **slots = calloc(size, sizeof(struct fr_site *));
    if (!slots) {
        return false;
    }
    for (uint32_t i = 0; i < table->size; i++) {
        if (table->slots[i]) {
            place_locked(slots, size, table->slots[i]);
        }
    }
    free(table->slots);
    table->slots = slots;
    table->size = size;
    return true;
}

/* Adds `site` unless another thread did; returns the one in the table, NULL if it is full. */
static struct fr_site *add(struct fr_site_table *table, struct fr_site *site)
{
    fr_mutex_lock(&table->lock);
    struct fr_site *found = find_locked(table, site->key, site->lasti);
    if (!found && table->used < MAX_SITES && grow_locked(table)) {
        place_locked(table->slots, table->size, site);
        table->used++;
        found = site;
    }
    fr_mutex_unlock(&table->lock);
    return found;
}

static bool is_own(PyObject *globals)
{
    PyObject *name = globals ? PyDict_GetItemString(globals, "__name__") : NULL; /* no module's name goes away */
    const char *text = name && PyUnicode_Check(name) ? PyUnicode_AsUTF8(name) : NULL;
    if (!text) {
        PyErr_Clear();
    }
    return text && (strncmp(text, "freerun.", 8) == 0 || strcmp(text, "freerun") == 0);
}

/* `template` is what the entry will be if there is none; its code is borrowed. */
static struct fr_site *intern(struct fr_module *mod, struct fr_site template)
{
    fr_mutex_lock(&mod->sites.lock);
    struct fr_site *found = find_locked(&mod->sites, template.key, template.lasti);
    fr_mutex_unlock(&mod->sites.lock);
    struct fr_site *site = found ? NULL : malloc(sizeof *site);
    if (!site) {
        return found;
    }
    *site = template;
    Py_INCREF(site->code);
    found = add(&mod->sites, site);
    if (found != site) {
        Py_DECREF(site->code);
        free(site);
    }
    return found;
}

/* The first frame of this thread that is not freerun's. */
static struct fr_site *outside(struct fr_module *mod)
{
    PyFrameObject *frame = PyThreadState_GetFrame(PyThreadState_GetUnchecked());
    for (bool own = true; frame && own;) {
        PyObject *globals = PyFrame_GetGlobals(frame);
        own = is_own(globals);
        Py_DECREF(globals);
        if (own) {
            PyFrameObject *back = PyFrame_GetBack(frame);
            Py_SETREF(frame, back);
        }
    }
    if (!frame) {
        return NULL;
    }
    PyObject *code = (PyObject *)PyFrame_GetCode(frame);
    struct fr_site template = {.key = (uintptr_t)code, .lasti = PyFrame_GetLasti(frame), .code = code};
    struct fr_site *site = intern(mod, template);
    Py_DECREF(code);
    Py_DECREF(frame);
    return site;
}

static struct fr_site *intern_current(struct fr_module *mod, struct _PyInterpreterFrame *frame, uintptr_t key,
                                      int lasti)
{
    PyObject *code = PyUnstable_InterpreterFrame_GetCode(frame);
    struct fr_site template = {.key = key, .lasti = lasti, .own = is_own(PyEval_GetGlobals()), .code = code};
    struct fr_site *site = intern(mod, template);
    Py_DECREF(code);
    return site;
}

static struct fr_site *cached_site(struct fr_module *mod, struct _PyInterpreterFrame *frame)
{
    uintptr_t key = *(uintptr_t *)frame;
    int lasti = PyUnstable_InterpreterFrame_GetLasti(frame);
    struct fr_worker *worker = fr_thread.worker;
    if (!worker || worker->rt->mod != mod) {
        return intern_current(mod, frame, key, lasti);
    }
    struct fr_site_cache *cached = &worker->sites[site_hash(key, lasti) % FR_SITE_CACHE];
    if (cached->code != key || cached->lasti != lasti) {
        struct fr_site *site = intern_current(mod, frame, key, lasti);
        if (!site) {
            return NULL;
        }
        *cached = (struct fr_site_cache){.code = key, .lasti = lasti, .site = site};
    }
    return cached->site;
}

struct fr_site *fr_site_here(struct fr_module *mod)
{
    struct _PyInterpreterFrame *frame = PyThreadState_GetUnchecked()->current_frame;
    struct fr_site *site = frame ? cached_site(mod, frame) : NULL;
    return site && site->own ? outside(mod) : site;
}

PyObject *fr_site_describe(struct fr_site *site)
{
    if (!site || !PyCode_Check(site->code)) {
        Py_RETURN_NONE;
    }
    PyCodeObject *code = (PyCodeObject *)site->code;
    return PyUnicode_FromFormat("%U:%d in %U", code->co_filename, PyCode_Addr2Line(code, site->lasti),
                                code->co_qualname);
}

void fr_sites_free(struct fr_module *mod)
{
    for (uint32_t i = 0; i < mod->sites.size; i++) {
        if (mod->sites.slots[i]) {
            Py_XDECREF(mod->sites.slots[i]->code);
            free(mod->sites.slots[i]);
        }
    }
    free(mod->sites.slots);
    mod->sites = (struct fr_site_table){.size = 0};
}

/* The child of a fork has one thread; another may have held the lock in the middle of a change. */
void fr_sites_after_fork(struct fr_module *mod)
{
    mod->sites = (struct fr_site_table){.size = 0};
}
