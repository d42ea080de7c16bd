"""Losses in a process group are those of the whole batch, however its pixels fall to processes."""

from processes import in_two


def test_pixels_weigh_alike_whichever_process_has_them(tmp_path):
    in_two(
        tmp_path,
        """
        from torch import distributed
        from kdlib.data.augment import Views
        from kdlib.losses import matching, supervised
        from kdlib.methods import Distil, Supervised
        from kdlib.models.outputs import SegmentationOutput

        distributed.init_process_group("gloo")
        rank = distributed.get_rank()
        random = torch.Generator().manual_seed(0)
        student, teacher = torch.randn(2, 4, 3, 8, 8, generator=random)
        labels = torch.randint(0, 3, (4, 8, 8), generator=random)
        labels[1:, :5] = 255
        labels[1] = labels[3] = 255  # process 1 has no label at all
        valid = torch.ones(4, 8, 8, dtype=torch.bool)
        valid[1:, :, 3:] = False
        weights = torch.tensor([0.5, 1e-3, 0.25])

        def mean(terms, name):
            value = terms[name].clone()
            distributed.all_reduce(value)
            return value / 2

        def output(logits):
            return SegmentationOutput(logits, None, {})

        own = slice(rank, None, 2)
        views = Views(torch.zeros(2, 3, 8, 8), labels[own], valid[own])
        for chosen in (None, weights):
            whole = supervised.segmentation_ce(student, labels, class_weights=chosen)
            found = mean(Supervised(chosen).terms(views, output(student[own])), "cross_entropy")
            torch.testing.assert_close(found, whole)

            weight = None if chosen is None else chosen[teacher.argmax(1)]
            whole = matching.segmentation(student, teacher, valid_NHW=valid, weight_NHW=weight)
            method = Distil(class_weights=chosen)
            terms = method.terms(views, output(student[own]), output(teacher[own]))
            torch.testing.assert_close(mean(terms, "matching"), whole)

        labels[:] = 255
        views = Views(views.images, labels[own], valid[own])
        terms = Supervised().terms(views, output(student[own]))
        assert terms["cross_entropy"] == 0
        distributed.destroy_process_group()
        """,
    )


def test_labelled_cells_count_alike_whichever_process_has_them(tmp_path):
    in_two(
        tmp_path,
        """
        from torch import distributed
        from kdlib.detection import Targets
        from kdlib.losses import fcos
        from kdlib.methods.boxes import labelled_terms
        from test_fcos import boxes_of, random_output

        distributed.init_process_group("gloo")
        rank = distributed.get_rank()
        output, boxes = random_output(0, images=4), boxes_of(1, images=4)

        def mean(terms):
            values = torch.stack(list(terms.values()))
            distributed.all_reduce(values)
            return values / 2

        def part(levels):
            return tuple(level[rank::2] for level in levels)

        own = output._replace(
            classification=part(output.classification),
            box=part(output.box),
            quality=part(output.quality),
        )
        none, uneven = torch.ones_like(boxes.ignored), boxes.ignored.clone()
        uneven[1::2] = True  # process 1 has no object at all
        for ignored in (boxes.ignored, uneven, none):
            targets = boxes._replace(ignored=ignored)
            whole = torch.stack(list(fcos.fcos(output, targets).values()))
            found = mean(labelled_terms(own, Targets(*(each[rank::2] for each in targets))))
            torch.testing.assert_close(found, whole)
        distributed.destroy_process_group()
        """,
    )
