/* An external delegate for tests: its options say what it does. The declarations are those of TFLite's C API
   (tensorflow/lite/core/c/common.h), as far as they are touched here. */
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct { int size; int data[]; } IntArray;
struct Delegate;
struct Context;
struct Node;

/* Passed by value; longer than the real one, with zeros behind it. */
typedef struct {
  void* (*init)(struct Context*, const char*, size_t);
  void (*free)(struct Context*, void*);
  int (*prepare)(struct Context*, struct Node*);
  int (*invoke)(struct Context*, struct Node*);
  const char* (*profiling_string)(const struct Context*, const struct Node*);
  int32_t builtin_code;
  const char* custom_name;
  int version;
  void* more[8];
} Registration;

typedef struct Context {
  size_t tensors_size;
  int (*get_execution_plan)(struct Context*, IntArray**);
  void* tensors;
  void* impl;
  void* resize_tensor;
  void* report_error;
  void* add_tensors;
  void* get_node_and_registration;
  int (*replace_nodes)(struct Context*, Registration, const IntArray*, struct Delegate*);
} Context;

typedef struct Delegate {
  void* data;
  int (*prepare)(Context*, struct Delegate*);
  void* copy_from;
  void* copy_to;
  void* free_handle;
  int64_t flags;
  void* builder;
  int take;
  int crash;
} Delegate;

static int kernel_prepare(struct Context* context, struct Node* node) { return 0; }
static int kernel_leaves_zeros(struct Context* context, struct Node* node) { return 0; }
static int kernel_crashes(struct Context* context, struct Node* node) { raise(SIGSEGV); return 0; }

static int prepare(Context* context, Delegate* self) {
  IntArray* plan;
  if (context->get_execution_plan(context, &plan)) return 1;
  int count = plan->size < self->take ? plan->size : self->take;
  if (!count) return 0;
  IntArray* taken = malloc(sizeof(IntArray) + count * sizeof(int));
  taken->size = count;
  memcpy(taken->data, plan->data, count * sizeof(int));
  Registration kernel = {0};
  kernel.prepare = kernel_prepare;
  kernel.invoke = self->crash ? kernel_crashes : kernel_leaves_zeros;
  kernel.custom_name = "TestDelegate";
  kernel.version = 1;
  int status = context->replace_nodes(context, kernel, taken, self);
  free(taken);
  return status;
}

Delegate* tflite_plugin_create_delegate(char** keys, char** values, size_t count, void (*report)(const char*)) {
  Delegate* self = calloc(1, sizeof(Delegate));
  for (size_t i = 0; i < count; i++) {
    if (!strcmp(keys[i], "fail")) { report(values[i]); free(self); return NULL; }
    if (!strcmp(keys[i], "crash") && !strcmp(values[i], "create")) raise(SIGSEGV);
    if (!strcmp(keys[i], "crash") && !strcmp(values[i], "invoke")) self->crash = 1;
    if (!strcmp(keys[i], "take")) self->take = atoi(values[i]);
  }
  self->prepare = prepare;
  return self;
}

void tflite_plugin_destroy_delegate(Delegate* self) { free(self); }
