/* A whole app in C: classify_c BUNDLE IMAGE */
#include <stdio.h>
#include <vitaie/vitaie.h>

int main(int count, char** words) {
    if (count != 3) {
        fprintf(stderr, "usage: classify_c BUNDLE IMAGE\n");
        return 2;
    }
    vitaie_bundle* bundle = NULL;
    vitaie_model* model = NULL;
    vitaie_prediction best[5];
    size_t found = 0;
    const vitaie_image image = vitaie_image_path(words[2]);

    vitaie_error* error = vitaie_bundle_open(words[1], &bundle);
    if (!error) error = vitaie_bundle_load(bundle, NULL, &model);
    if (!error) error = vitaie_model_classify(model, &image, 5, best, &found);

    for (size_t index = 0; index < found; ++index) {
        printf("%8.2f%%  %s\n", 100 * best[index].probability, best[index].label);
    }
    int code = 0;
    if (error) {
        fprintf(stderr, "%s\n", vitaie_error_message(error));
        code = vitaie_error_exit_code(error);
    }
    vitaie_error_free(error);
    vitaie_model_free(model);
    vitaie_bundle_free(bundle);
    return code;
}
