"""Keras's private names, each behind a function: nothing else in the package says one.

What Keras promises to nobody may go with its next release. So it stands in this folder alone, with
what it is for, and a test lists by name what the installed Keras lacks. The folder imports Keras
and nothing of ours outside it, by relative names, so that the test can load it by itself; it looks
names up only when they are used.
"""

# ruff: noqa: F401
from .data import (
    count_as_seen,
    data_adapter,
    data_adapter_class,
    dataset_of,
    distribute_batch,
    has_arrays,
    has_batches,
    is_torch_loader,
    loader_of,
    open_dataset_again,
    reads_grain,
    replace_batches,
    replace_epochs,
    replace_passes,
    set_dataset,
    set_loader,
    set_num_batches,
    stacked,
    stacks_batches,
)
from .graphs import call_inputs, compute, functional_inputs, origin
from .hub import fill_hub_cache, hub_cache_arguments
from .layers import (
    all_layers,
    layers_of,
    own_non_trainable_variables,
    own_trainable_variables,
    own_variables,
    passes_filters,
    place_by_shape,
    recompute_by,
    seed_generators,
    set_own_trainable,
    unlocked,
    untrack,
)
from .loop import (
    RUNNING_STATE,
    build_from_batch,
    direction,
    is_unsynced,
    is_validation,
    last_state,
    loss_metric,
    mark_synced,
    model_of,
    output_losses,
    require_compiled,
    set_initial_epoch,
    state_shardings,
    unsynced_state,
)
from .names import OVERRIDDEN, USED
from .optimizers import (
    adam_moments,
    check_variables,
    given_learning_rate,
    moving_averages,
    optimized_variables,
    own_optimizer_variables,
    takes_gradient_as_value,
    update_counter,
    variable_index,
    variable_key,
)
from .program import global_state_kept, is_of_one_backend, random_seed, without_loading
from .variables import (
    SMALL,
    autocasts,
    empty,
    end_emptiness,
    framework_variable,
    in_stateless_scope,
    is_inside_step,
    layout_of,
    numbers_in,
    set_layout,
    set_path,
    set_value,
    stateless_scope,
    stateless_value,
)
