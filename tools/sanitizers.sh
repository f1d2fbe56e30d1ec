#!/usr/bin/env bash
# sanitizers.sh - how the programs of a sanitizer build are run.
#   usage: . tools/sanitizers.sh; sanitizer_options MODE FOLDER
#
# Owns:      the runtime options of the three builds, where their reports go, how much slower a
#            build may be than the release.
# Does not:  build or run anything.

# sanitizer_options MODE FOLDER: exports the options of build/MODE. Reports of any process go to
# FOLDER/report.PID, since a service's own log is removed with its home.
sanitizer_options() {
    local mode=$1 folder=$2 supp=tools/sanitizers.supp log
    mkdir -p "$folder" && folder=$(cd "$folder" && pwd) || return 1
    log=log_path=$folder/report
    # Each runtime takes only its own kinds of lines.
    grep '^leak:' "$supp" >"$folder/leak.supp"
    grep -E '^(race|called_from_lib|mutex|deadlock|signal|thread):' "$supp" >"$folder/thread.supp"
    case $mode in
    release) TEST_SLOWNESS=1 ;;
    asan)
        TEST_SLOWNESS=8
        export ASAN_OPTIONS="detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1"
        ASAN_OPTIONS+=":check_initialization_order=1:strict_init_order=1:abort_on_error=0:$log"
        export LSAN_OPTIONS="suppressions=$folder/leak.supp:print_suppressions=0"
        ;;
    ubsan)
        TEST_SLOWNESS=6
        export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1:$log"
        ;;
    tsan)
        TEST_SLOWNESS=20
        export TSAN_OPTIONS="suppressions=$folder/thread.supp:halt_on_error=0:exitcode=66"
        TSAN_OPTIONS+=":second_deadlock_stack=1:history_size=4:$log"
        ;;
    *)
        echo "sanitizers: the mode $mode is none of release, asan, ubsan, tsan" >&2
        return 1
        ;;
    esac
    export TEST_SLOWNESS
}
